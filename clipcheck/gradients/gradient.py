"""Recognizes gradients: the `.grad` of something, values derived from one, and tensors that are named gradients.

There are two questions about an expression. `gradient` says whether its value is a gradient, up to dtype, shape and
device. `is_in_place` says whether changing it in place changes the gradient of a parameter: `p.grad.detach()` shares
memory with the gradient, `p.grad.clone()` does not. A name counts only if nothing contradicts it; in a file that uses
another framework, nothing is a gradient.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import libcst as cst

from clipcheck.gradients.called import called_gradients, gives_gradient
from clipcheck.gradients.framework import framework, is_foreign
from clipcheck.gradients.graphs import has_graph
from clipcheck.gradients.hosts import is_to_host
from clipcheck.gradients.made_up import is_drawn_product
from clipcheck.gradients.shards import shard_of
from clipcheck.python.assignments import Path, appended, assigned_value, assigned_values, loop_of, mapped_over
from clipcheck.python.literals import is_zero
from clipcheck.python.names import Binding, dotted
from clipcheck.python.reaching import reaching
from clipcheck.python.source import Source
from clipcheck.python.words import words

_DEPTH = 8  # maximum number of names and calls to follow

# Methods of a tensor whose result has the same elements in the same memory ...
_VIEWS = frozenset("detach detach_ requires_grad_ view squeeze unsqueeze t".split())
# ... and those whose result has the same norm, but may be a copy.
_COPIES = frozenset("clone contiguous cpu cuda abs coalesce resolve_conj reshape flatten ravel numpy".split())
_CASTS = frozenset("float double half bfloat16 type type_as to".split())
_METHODS = _VIEWS | _COPIES | _CASTS
_FLAT = frozenset({"flatten", "ravel"})


class Condition(NamedTuple):
    """A condition that decides whether a tensor is included; `holds` is False if it must be false."""

    test: cst.BaseExpression
    holds: bool


class Gradient(NamedTuple):
    """An expression that is a gradient.

    `node` is the plain gradient (`p.grad`, or a name such as `g`), `owner` is the `p` of `p.grad`. `casts` are dtype
    conversions in between (`.float()`), `via` bindings of helper names, `guards` the tests of conditional expressions;
    `graph` means that autograd may still go through it, `certain` that every binding that reaches it is known. `host`
    is the call that copies it to the host (`.cpu()`, `.numpy()`), `local` means that it is this process's shard.
    """

    node: cst.BaseExpression
    owner: cst.BaseExpression | None = None
    casts: str = ""
    flat: bool = False
    via: tuple[Binding, ...] = ()
    guards: tuple[Condition, ...] = ()
    graph: bool = False
    certain: bool = True
    host: str = ""
    local: bool = False


def is_in_place(node: cst.CSTNode) -> bool:
    """Whether an expression is a gradient or a view of one, so that changing it in place changes the gradient."""
    match node:
        case cst.Attribute(attr=cst.Name(value="grad")):
            return True
        case cst.Attribute(value=inner, attr=cst.Name(value="data")):
            return is_in_place(inner)
        case cst.Call(func=cst.Attribute(value=inner, attr=cst.Name(value=method))) if method in _VIEWS:
            return is_in_place(inner)
    return False


def gradient(source: Source, node: cst.CSTNode, depth: int = _DEPTH) -> Gradient | None:
    """The gradient that an expression is, up to dtype, shape and device; None for anything else or unknown."""
    if not depth or framework(source) == "another":
        return None
    match node:
        case cst.Call(func=cst.Name(value=name) | cst.Attribute(attr=cst.Name(value=name))) if gives_gradient(name):
            return Gradient(node)
        case cst.Attribute(value=owner, attr=cst.Name(value="grad")):
            return None if _is_module(source, owner) else Gradient(node, owner)
        case cst.Attribute(value=value, attr=cst.Name(value="data")):
            return gradient(source, value, depth - 1)
        case cst.Call() | cst.Attribute() if (whole := shard_of(source, node)) is not None:
            part = gradient(source, whole, depth - 1)
            return part and part._replace(local=True)
        case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value=method)), args=args) if method in _METHODS:
            inner = gradient(source, value, depth - 1)
            return inner and _through(source, inner, method, args)
        case cst.IfExp():
            return _chosen(source, node, depth)
        case cst.Name():
            return _named(source, node, depth)
        case cst.Subscript(value=value) if _contents(source, value, depth - 1) == "gradients":
            return Gradient(node)
    return None


def _chosen(source: Source, node: cst.IfExp, depth: int) -> Gradient | None:
    """A gradient if a test holds, else zero; or one gradient in two forms: `g.to_local() if … else g`."""
    one = gradient(source, node.body, depth - 1)
    if one is not None and is_zero(source, node.orelse):
        return one._replace(guards=(*one.guards, Condition(node.test, True)))
    other = gradient(source, node.orelse, depth - 1)
    if one is None or other is None or source.spelled(one.node) != source.spelled(other.node):
        return None
    same = one.casts == other.casts and one.host == other.host and one.local == other.local
    return one._replace(
        certain=one.certain and other.certain and same, host=one.host or other.host, local=one.local or other.local
    )


def _is_module(source: Source, owner: cst.BaseExpression) -> bool:
    """`torch.autograd.grad` and similar functions."""
    return source.origin(owner).startswith(("torch", "jax", "builtins"))


def _through(source: Source, inner: Gradient, method: str, args: Sequence[cst.Arg]) -> Gradient:
    """A gradient after a method that keeps its norm."""
    if is_to_host(source, method, args):
        return inner._replace(host=f".{method}()")
    if method in _CASTS:
        shown = ", ".join(source.code(arg).rstrip(", ") for arg in args)
        return inner._replace(casts=f"{inner.casts}.{method}({shown})")
    if method in _FLAT or (method in ("view", "reshape") and [source.code(arg.value) for arg in args] == ["-1"]):
        return inner._replace(flat=True)
    return inner


# --- names -----------------------------------------------------------------------------------------------------------


def _named(source: Source, name: cst.Name, depth: int) -> Gradient | None:
    """A name is a gradient if one of its bindings is; zeros that replace a missing one do not count."""
    found: list[Gradient] = []
    certain = True
    for binding in reaching(source, name):
        one = _bound(source, name, binding, depth)
        if one is not None:
            found.append(one)
        elif binding.value is None or not is_zero(source, binding.value):
            certain = False
    if not found:
        return None
    first, *others = found
    certain &= first.certain and all(_is_same(source, first, other) for other in others)
    via = tuple(binding for one in found for binding in one.via)
    return first._replace(via=via, certain=certain, local=any(one.local for one in found))


def _is_same(source: Source, one: Gradient, other: Gradient) -> bool:
    return source.code(one.node) == source.code(other.node) and one.casts == other.casts


def _bound(source: Source, name: cst.Name, binding: Binding, depth: int) -> Gradient | None:
    match binding.kind:
        case "for":
            return _looped(source, name, binding, depth)
        case "assign":
            return _assigned(source, name, binding, depth)
        case "parameter":
            iterable = mapped_over(source, binding)
            if iterable is not None:
                return _one_of(source, name, iterable, (), depth)
            return Gradient(name) if called_gradients(name.value) else None
    return None


def _looped(source: Source, name: cst.Name, binding: Binding, depth: int) -> Gradient | None:
    loop, path = loop_of(source, binding.node)
    return _one_of(source, name, loop.iter, path, depth)


def _one_of(source: Source, name: cst.Name, iterable: cst.BaseExpression, path: Path, depth: int) -> Gradient | None:
    """A name that is each of the gradients that an iterable gives, in turn."""
    elements = _elements(source, iterable, path, depth - 1)
    if elements == "gradients" or (elements == "unknown" and called_gradients(name.value)):
        made = element(source, iterable) if not path else None
        found = Gradient(name, graph=has_graph(source, iterable, depth))
        return found._replace(host=made.host, local=made.local) if made else found
    return None


def element(source: Source, node: cst.CSTNode, depth: int = _DEPTH) -> Gradient | None:
    """The gradient that the elements of a list are, where a comprehension made the list."""
    match node:
        case cst.ListComp(elt=elt) | cst.GeneratorExp(elt=elt) if depth:
            return gradient(source, elt, depth - 1)
        case cst.Call(func=cst.Name() as name) if depth:
            return _given_by(source, name, depth)
        case cst.Name() if depth:
            match assigned_values(source, node):
                case [cst.List(elements=[])]:
                    filled = [gradient(source, call.args[0].value, depth - 1) for call in appended(source, node)]
                    return filled[0] if filled and None not in filled else None
                case [cst.BaseExpression() as value]:
                    return element(source, value, depth - 1)
    return None


def _given_by(source: Source, name: cst.Name, depth: int) -> Gradient | None:
    """The gradient that a function of the file yields, or has in the list that it returns."""
    match source.bindings(name):
        case [Binding(node=cst.FunctionDef() as function)]:
            inside = [node for node in source.walk(function) if source.function(node) is function]
            yielded = [gradient(source, n.value, depth - 1) for n in inside if isinstance(n, cst.Yield) and n.value]
            returned = [element(source, n.value, depth - 1) for n in inside if isinstance(n, cst.Return) and n.value]
            found = yielded or returned
            return found[0] if found and None not in found else None
    return None


def _assigned(source: Source, name: cst.Name, binding: Binding, depth: int) -> Gradient | None:
    value = assigned_value(source, binding)
    if value is not None:
        inner = gradient(source, value, depth - 1)
        if inner is not None:
            return inner._replace(via=(*inner.via, binding))
        if is_foreign(source, value):
            return None
    return Gradient(name) if _is_singular(name.value) and _may_be_gradient(value) else None


def _is_singular(name: str) -> bool:
    return called_gradients(name) and not {"grads", "gradients"} & set(words(name))


def _may_be_gradient(value: cst.BaseExpression | None) -> bool:
    """A value known only by name: the result of some call, or an element."""
    return value is None or isinstance(value, (cst.Call, cst.Subscript, cst.Attribute))


# --- collections -----------------------------------------------------------------------------------------------------

# What a collection contains, as far as the code around it shows; for "unknown", names decide.
_Contents: TypeAlias = Literal["gradients", "others", "unknown"]


def _known(holds_gradients: bool) -> _Contents:
    return "gradients" if holds_gradients else "unknown"


def _contents(source: Source, node: cst.CSTNode, depth: int) -> _Contents:
    """What the elements of a collection (for a dict, its values) are."""
    if not depth:
        return "unknown"
    match node:
        case cst.ListComp(elt=elt) | cst.GeneratorExp(elt=elt) | cst.SetComp(elt=elt) | cst.DictComp(value=elt):
            return _known(gradient(source, elt, depth - 1) is not None)
        case cst.List(elements=elements) | cst.Tuple(elements=elements) if elements:
            return _known(all(gradient(source, element.value, depth - 1) for element in elements))
        case cst.IfExp(body=one, orelse=other) | cst.BinaryOperation(left=one, operator=cst.Add(), right=other):
            return _of_both(_contents(source, part, depth - 1) for part in (one, other))
        case cst.Call(func=cst.Attribute(value=table, attr=cst.Name("values"))):
            return _contents(source, table, depth - 1)
        case cst.Call(func=func, args=args):
            return _contents_of_call(source, func, args, depth)
        case cst.Attribute(attr=cst.Name(value=name)):
            return _known(called_gradients(name))
        case cst.Subscript(value=value):
            return _contents(source, value, depth - 1)
        case cst.Name():
            return _contents_of_name(source, node, depth)
    return "unknown"


def _of_both(parts: Iterable[_Contents]) -> _Contents:
    kinds = set(parts)
    if kinds == {"gradients"}:
        return "gradients"
    return "unknown" if "unknown" in kinds else "others"


def _contents_of_name(source: Source, name: cst.Name, depth: int) -> _Contents:
    """Judging by what is assigned to the name, or else by the name itself."""
    values = assigned_values(source, name)
    kinds = {"unknown" if value is None else _contents(source, value, depth - 1) for value in values}
    if "gradients" in kinds:
        return "gradients"
    if kinds == {"others"} or any(value is not None and is_foreign(source, value) for value in values):
        return "others"
    return _known(called_gradients(name.value))


def _contents_of_call(source: Source, func: cst.BaseExpression, args: Sequence[cst.Arg], depth: int) -> _Contents:
    name = dotted(func).rpartition(".")[2] or (func.attr.value if isinstance(func, cst.Attribute) else "")
    if source.qualified(func) == "torch.autograd.grad":
        return "others" if is_drawn_product(source, args) else "gradients"
    if is_foreign(source, func):
        return "others"
    if name in ("list", "tuple", "set", "reversed", "iter", "filter", "sorted", "chain") and args:
        return _contents(source, args[-1].value, depth - 1)
    if name in ("parameters", "named_parameters", "state_dict", "buffers", "range"):
        return "others"
    return _known(called_gradients(name))


def _elements(source: Source, iterable: cst.CSTNode, path: Path, depth: int) -> _Contents:
    """What is at `path` within each element of an iterable: in `enumerate(grads)`, gradients at (1,)."""
    if not depth:
        return "unknown"
    if not path:
        return _contents(source, iterable, depth)
    match iterable:
        case cst.Call(func=func, args=args):
            return _elements_of_call(source, func, args, path, depth)
        case cst.ListComp(elt=cst.Tuple(elements=elements)) | cst.GeneratorExp(elt=cst.Tuple(elements=elements)):
            if path[0] < len(elements) and len(path) == 1:
                found = gradient(source, elements[path[0]].value, depth - 1)
                return "others" if found is None else "gradients"
        case cst.Name():
            match assigned_values(source, iterable):
                case [cst.BaseExpression() as value]:
                    return _elements(source, value, path, depth - 1)
    return "unknown"


def _elements_of_call(
    source: Source, func: cst.BaseExpression, args: Sequence[cst.Arg], path: Path, depth: int
) -> _Contents:
    positional = [arg.value for arg in args if arg.keyword is None and not arg.star]
    match func, path:
        case cst.Attribute(value=table, attr=cst.Name("items")), (1, *rest):
            return _elements(source, table, tuple(rest), depth - 1)
    match dotted(func).rpartition(".")[2], path:
        case "zip", (index, *rest) if index < len(positional):
            return _elements(source, positional[index], tuple(rest), depth - 1)
        case "enumerate", (1, *rest) if positional:
            return _elements(source, positional[0], tuple(rest), depth - 1)
        case (("list" | "tuple" | "sorted" | "reversed" | "tqdm"), _) if positional:
            return _elements(source, positional[0], path, depth - 1)
        case (("named_parameters" | "named_buffers"), _):
            return "others"
    return "unknown"
