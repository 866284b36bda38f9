"""What is a gradient: the `.grad` of something, whatever is bound from one, and tensors that are called gradients.

A name is only believed where nothing contradicts it; where the file computes with another framework, nothing is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import libcst as cst

from clipcheck.python.names import Binding, dotted
from clipcheck.python.reaching import reaching
from clipcheck.python.source import Source

_DEPTH = 8  # how many names and calls are followed before the answer is "unknown"

# Frameworks whose arrays answer to the same method names; a file that imports one of them and no torch is theirs.
_OTHERS = frozenset(
    "mxnet jax flax haiku optax tensorflow keras paddle mindspore lucid mlx tinygrad chainer cupy oneflow autograd "
    "minitorch needle theano brainstorm dynet megengine jittor".split()
)

# Methods of a tensor whose result has the same norm as the tensor itself.
_SAME_NORM = frozenset(
    "detach clone contiguous cpu cuda abs coalesce requires_grad_ resolve_conj view reshape flatten ravel squeeze "
    "unsqueeze t numpy detach_".split()
)
_FLAT = frozenset({"flatten", "ravel"})
_CASTS = frozenset("float double half bfloat16 type type_as to".split())

_GRADIENT_WORDS = frozenset({"grad", "grads", "gradient", "gradients"})
# Words that make of "grad_…" or "…_grads" something else than gradients.
_OTHER_WORDS = frozenset(
    "norm norms sample samples sq square squared squares mask masks name names count counts fn func hook hooks scale "
    "scales scaler hist history stat stats ema mean means std var diff diffs delta ratio penalty dist sim cos cosine "
    "clip clips clipped max min enabled acc accumulation step steps index idx indices shape shapes size sizes sum log logs "
    "no enable set group groups bucket buckets required req requires queue handle handles checkpoint ckpt error errors".split()
)


class Condition(NamedTuple):
    """A test that decides whether a tensor takes part; `holds` is False where it must not hold."""

    test: cst.BaseExpression
    holds: bool


class Gradient(NamedTuple):
    """An expression that is a gradient.

    `node` is the plain gradient (`p.grad`, or a name such as `g`), `owner` the `p` of `p.grad`. `casts` are the changes
    of dtype on the way (`.float()`), `via` the bindings of helper names, `guards` the tests of conditional expressions;
    `graph` says that autograd may still go through it, `certain` that no way of getting there is unknown.
    """

    node: cst.BaseExpression
    owner: cst.BaseExpression | None = None
    casts: str = ""
    flat: bool = False
    via: tuple[Binding, ...] = ()
    guards: tuple[Condition, ...] = ()
    graph: bool = False
    certain: bool = True


@lru_cache(maxsize=8)
def speaks_torch(source: Source) -> bool | None:
    """Whether the file computes with torch: True, False for another framework, None where nothing tells."""
    paths = [b.path for scope in source.names.scopes.values() for bs in scope.bindings.values() for b in bs if b.path]
    roots = {path.lstrip(".").partition(".")[0] for path in paths}
    if any("torch" in root for root in roots) or source.names.uses(None, "torch"):
        return True
    return False if roots & _OTHERS else None


@lru_cache(maxsize=4096)
def words(name: str) -> tuple[str, ...]:
    """The words of an identifier, in lower case: `gradNorm_L2` is grad, norm, l2."""
    return tuple(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().strip("_").split("_"))


def called_gradients(name: str) -> bool:
    """Whether an identifier says that it stands for one or several gradients."""
    parts = set(words(name))
    return bool(parts & _GRADIENT_WORDS) and not parts & _OTHER_WORDS


def gradient(source: Source, node: cst.CSTNode, depth: int = _DEPTH) -> Gradient | None:
    """The gradient that an expression is, up to dtype, shape and device; None for anything else or unknown."""
    if not depth or speaks_torch(source) is False:
        return None
    match node:
        case cst.Call(func=cst.Name(value=name) | cst.Attribute(attr=cst.Name(value=name))) if _gives_gradient(name):
            return Gradient(node)
        case cst.Attribute(value=owner, attr=cst.Name(value="grad")):
            return None if _is_module(source, owner) else Gradient(node, owner)
        case cst.Attribute(value=value, attr=cst.Name(value="data")):
            return gradient(source, value, depth - 1)
        case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value=method)), args=args):
            return _method(source, value, method, args, depth)
        case cst.IfExp(test=test, body=body, orelse=orelse):
            chosen = gradient(source, body, depth - 1)
            if chosen and is_zero(source, orelse):
                return chosen._replace(guards=(*chosen.guards, Condition(test, True)))
            return None
        case cst.Name():
            return _named(source, node, depth)
        case cst.Subscript(value=value) if _holds_gradients(source, value, depth - 1):
            return Gradient(node)
    return None


def _gives_gradient(name: str) -> bool:
    """`safe_get_full_grad(p)` and its like."""
    parts = words(name)
    return "get" in parts and parts[-1] in ("grad", "gradient")


def _is_module(source: Source, owner: cst.BaseExpression) -> bool:
    """`torch.autograd.grad` and its like are functions."""
    origin = source.qualified(owner)
    return origin is not None and origin.startswith(("torch", "jax", "builtins"))


def _method(
    source: Source, value: cst.BaseExpression, method: str, args: Sequence[cst.Arg], depth: int
) -> Gradient | None:
    if method not in _SAME_NORM and method not in _CASTS:
        return None
    inner = gradient(source, value, depth - 1)
    if inner is None:
        return None
    if method in _CASTS:
        shown = ", ".join(source.code(arg).rstrip(", ") for arg in args)
        return inner._replace(casts=f"{inner.casts}.{method}({shown})")
    if method in _FLAT or (method in ("view", "reshape") and [source.code(a.value) for a in args] == ["-1"]):
        return inner._replace(flat=True)
    return inner


def _named(source: Source, name: cst.Name, depth: int) -> Gradient | None:
    found: list[Gradient] = []
    unknown = False
    for binding in reaching(source, name):
        one = _bound(source, name, binding, depth)
        if one is not None:
            found.append(one)
        elif not (binding.value is not None and is_zero(source, binding.value)):
            unknown = True
    if not found:
        return None
    first = found[0]
    alike = all(_same(source, first, other) for other in found[1:])
    via = tuple(binding for one in found for binding in one.via)
    return first._replace(via=via, certain=first.certain and alike and not unknown)


def _same(source: Source, one: Gradient, other: Gradient) -> bool:
    return source.code(one.node) == source.code(other.node) and one.casts == other.casts


def _bound(source: Source, name: cst.Name, binding: Binding, depth: int) -> Gradient | None:
    match binding.kind:
        case "for":
            loop, path = target_path(source, binding.node)
            known = _elements(source, loop.iter, path, depth - 1)
            believed = known if known is not None else called_gradients(name.value)
            return Gradient(name, graph=_has_graph(source, loop.iter, depth)) if believed else None
        case "assign":
            value = assigned_value(source, binding)
            if value is not None:
                inner = gradient(source, value, depth - 1)
                if inner is not None:
                    return inner._replace(via=(*inner.via, binding))
                if _is_foreign(source, value):
                    return None
            return Gradient(name) if _is_singular(name.value) and _may_be_gradient(value) else None
        case "parameter":
            return Gradient(name) if called_gradients(name.value) else None
    return None


def _is_singular(name: str) -> bool:
    return called_gradients(name) and not {"grads", "gradients"} & set(words(name))


def _may_be_gradient(value: cst.BaseExpression | None) -> bool:
    """A value of which nothing is known but the name it is given: the result of some call, or an element."""
    return value is None or isinstance(value, (cst.Call, cst.Subscript, cst.Attribute))


def target_path(source: Source, target: cst.CSTNode) -> tuple[cst.For | cst.CompFor, tuple[int, ...]]:
    """The loop that binds a name in its target, and the way to the name through the target's tuples."""
    path: list[int] = []
    child = target
    for parent in source.ancestors(target):
        match parent:
            case cst.For() | cst.CompFor():
                return parent, tuple(reversed(path))
            case cst.Tuple(elements=elements) | cst.List(elements=elements):
                path.append(next(i for i, element in enumerate(elements) if element is child))
        child = parent
    raise ValueError("not the target of a loop")


def assigned_value(source: Source, binding: Binding) -> cst.BaseExpression | None:
    """The right side of an assignment as far as it belongs to one name, also in `a, b = x, y`."""
    if binding.value is not None:
        return binding.value
    path: list[int] = []
    child = binding.node
    for parent in source.ancestors(binding.node):
        match parent:
            case cst.Tuple(elements=elements) | cst.List(elements=elements):
                path.append(next(i for i, element in enumerate(elements) if element is child))
            case cst.Assign(value=value):
                for index in reversed(path):
                    match value:
                        case cst.Tuple(elements=[*elements]) | cst.List(elements=[*elements]) if index < len(
                            elements
                        ) and not any(isinstance(e, cst.StarredElement) for e in elements):
                            value = elements[index].value
                        case _:
                            return None
                return value
            case cst.BaseSmallStatement():
                return None
        child = parent
    return None


# --- collections -----------------------------------------------------------------------------------------------------


def _elements(source: Source, iterable: cst.CSTNode, path: tuple[int, ...], depth: int) -> bool | None:
    """Whether the elements of an iterable, at `path` within each, are gradients; None where it does not tell."""
    if not depth:
        return None
    if not path:
        return _holds_gradients(source, iterable, depth)
    match iterable:
        case cst.Call(func=func, args=args):
            positional = [arg.value for arg in args if arg.keyword is None and not arg.star]
            match dotted(func).rpartition(".")[2], path:
                case "zip", (index, *rest) if index < len(positional):
                    return _elements(source, positional[index], tuple(rest), depth - 1)
                case "enumerate", (1, *rest) if positional:
                    return _elements(source, positional[0], tuple(rest), depth - 1)
                case "items", (1, *rest) if isinstance(func, cst.Attribute):
                    return _elements(source, func.value, tuple(rest), depth - 1)
                case (("list" | "tuple" | "sorted" | "reversed" | "tqdm"), _) if positional:
                    return _elements(source, positional[0], path, depth - 1)
                case (("named_parameters" | "named_buffers"), _):
                    return False
        case cst.ListComp(elt=cst.Tuple(elements=elements)) | cst.GeneratorExp(elt=cst.Tuple(elements=elements)):
            if path[0] < len(elements) and len(path) == 1:
                return gradient(source, elements[path[0]].value, depth - 1) is not None
        case cst.Name():
            values = list(_values(source, iterable))
            if len(values) == 1 and values[0] is not None:
                return _elements(source, values[0], path, depth - 1)
    return None


def _holds_gradients(source: Source, node: cst.CSTNode, depth: int) -> bool | None:
    """Whether an expression is a collection of gradients (of a dict: its values); None where it does not tell."""
    if not depth:
        return None
    match node:
        case cst.ListComp(elt=elt) | cst.GeneratorExp(elt=elt) | cst.SetComp(elt=elt) | cst.DictComp(value=elt):
            return True if gradient(source, elt, depth - 1) else None
        case cst.List(elements=elements) | cst.Tuple(elements=elements) if elements:
            return True if all(gradient(source, e.value, depth - 1) for e in elements) else None
        case cst.IfExp(body=one, orelse=other) | cst.BinaryOperation(left=one, operator=cst.Add(), right=other):
            both = {_holds_gradients(source, one, depth - 1), _holds_gradients(source, other, depth - 1)}
            return True if both == {True} else (None if None in both else False)
        case cst.Call(func=func, args=args):
            return _call_gives_gradients(source, func, args, depth)
        case cst.Attribute(attr=cst.Name(value=name)):
            return True if called_gradients(name) else None
        case cst.Subscript(value=value):
            return _holds_gradients(source, value, depth - 1)
        case cst.Name(value=name):
            values = list(_values(source, node))
            known = {_holds_gradients(source, value, depth - 1) if value is not None else None for value in values}
            if True in known:
                return True
            if any(value is not None and _is_foreign(source, value) for value in values):
                return False
            return True if called_gradients(name) else (False if known == {False} else None)
    return None


def _call_gives_gradients(source: Source, func: cst.BaseExpression, args: Sequence[cst.Arg], depth: int) -> bool | None:
    name = dotted(func).rpartition(".")[2] or (func.attr.value if isinstance(func, cst.Attribute) else "")
    if source.qualified(func) == "torch.autograd.grad":
        return True
    if _is_foreign(source, func):
        return False
    if name in ("list", "tuple", "set", "reversed", "iter", "filter", "sorted", "chain") and args:
        return _holds_gradients(source, args[-1].value, depth - 1)
    if name == "values" and isinstance(func, cst.Attribute):
        return _holds_gradients(source, func.value, depth - 1)
    if name in ("parameters", "named_parameters", "state_dict", "buffers", "range"):
        return False
    return True if called_gradients(name) else None


def _values(source: Source, name: cst.Name) -> Iterator[cst.BaseExpression | None]:
    for binding in reaching(source, name):
        yield assigned_value(source, binding) if binding.kind == "assign" else None


def _has_graph(source: Source, node: cst.CSTNode, depth: int) -> bool:
    """Whether tensors of this expression were made with `create_graph`, so that autograd goes through their norm."""
    if not depth:
        return False
    match node:
        case cst.Call(args=args):
            if any(
                arg.keyword is not None
                and arg.keyword.value == "create_graph"
                and source.code(arg.value) not in ("False", "None")
                for arg in args
            ):
                return True
            return any(_has_graph(source, arg.value, depth - 1) for arg in args)
        case cst.Name():
            return any(value is not None and _has_graph(source, value, depth - 1) for value in _values(source, node))
        case cst.ListComp(for_in=clause) | cst.GeneratorExp(for_in=clause):
            return _has_graph(source, clause.iter, depth - 1)
        case cst.Subscript(value=value):
            return _has_graph(source, value, depth - 1)
    return False


def has_graph(source: Source, node: cst.CSTNode) -> bool:
    return _has_graph(source, node, _DEPTH)


def _is_foreign(source: Source, node: cst.CSTNode) -> bool:
    """Whether a value comes from numpy, jax, a TensorFlow tape or the like."""
    while isinstance(node, (cst.Call, cst.Subscript)):
        node = node.func if isinstance(node, cst.Call) else node.value
    origin = source.qualified(node) or ""
    root = origin.partition(".")[0]
    return root in _OTHERS or root == "numpy" or dotted(node).endswith("tape.gradient")


def is_zero(source: Source, node: cst.CSTNode) -> bool:
    """A zero of any type: `0`, `0.0`, `torch.tensor(0)`, `torch.zeros(1, device=…)`."""
    match node:
        case cst.Integer() | cst.Float():
            return float(node.evaluated_value) == 0
        case cst.Call(func=func, args=args):
            match source.qualified(func):
                case "builtins.float" | "builtins.int" | "torch.tensor" | "torch.as_tensor" | "torch.FloatTensor":
                    return len(args) > 0 and is_zero(source, args[0].value)
                case "torch.zeros" | "torch.zeros_like":
                    return True
            match func:
                case cst.Attribute(value=value, attr=cst.Name(value="to" | "cuda" | "cpu" | "float" | "double")):
                    return is_zero(source, value)
        case cst.List(elements=[element]):
            return is_zero(source, element.value)
    return False
