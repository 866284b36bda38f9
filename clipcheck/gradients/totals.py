"""Recognizes the norm of many gradients in one expression: `(Σ ‖g‖ₚ ** q) ** r`, the norm of stacked norms or of joined gradients.

`clipcheck.gradients.powers` reads one term, `clipcheck.gradients.accumulations` the sum that a loop's statements make. What the code is called, how
it is spelled and over how many statements it is spread makes no difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, TypeAlias

import libcst as cst

from clipcheck.gradients.accumulations import Accumulation, Series, accumulations
from clipcheck.gradients.exponents import ONE, TWO, Exponent
from clipcheck.gradients.gradient import Condition, gradient, has_graph
from clipcheck.gradients.loops import Clause
from clipcheck.gradients.norm_functions import norm_call_of
from clipcheck.gradients.powers import PASS, NumberKind, Power, power, raised, through
from clipcheck.python.assignments import only_assignment
from clipcheck.python.literals import is_zero
from clipcheck.python.names import Binding
from clipcheck.python.reaching import reaching
from clipcheck.python.source import Source

_DEPTH = 8  # how many names and calls are followed

_LISTS = frozenset({"builtins.list", "builtins.tuple", "numpy.array", "numpy.asarray"})
_STACKS = frozenset({"torch.stack", "torch.tensor", "torch.cat", "torch.hstack", "torch.as_tensor"})
_JOINS = frozenset(
    {
        *("torch.cat", "torch.concat", "torch.concatenate", "torch.hstack"),
        *("torch._utils._flatten_dense_tensors", "torch.nn.utils.parameters_to_vector"),
    }
)
_SAME_VECTOR = frozenset("detach cpu numpy float double view reshape flatten cuda to".split())

Form: TypeAlias = Literal["sum", "stack", "cat"]


class Total(NamedTuple):
    """`(Σ term) ** outer` as one expression; `flat` where the tensors were joined first, `stacked` where their norms were."""

    node: cst.BaseExpression
    series: Series
    outer: Exponent
    kind: NumberKind
    form: Form = "sum"
    numpy: str = ""  # how the file calls numpy, where the value is one of its numbers

    @property
    def term(self) -> Power:
        return self.series.term

    @property
    def degree(self) -> Exponent | None:
        """The power of the total norm that the value is: 1 for the norm, p for its p-th power."""
        if not self.term.order.equals(self.term.exponent):
            return None
        return self.term.order.times(self.outer)


# --- many powers -----------------------------------------------------------------------------------------------------


def series(source: Source, node: cst.CSTNode, depth: int = _DEPTH) -> Series | None:
    """The powers that a list or generator expression holds, one for each tensor."""
    if not depth:
        return None
    match node:
        case cst.GeneratorExp(elt=elt, for_in=clause) | cst.ListComp(elt=elt, for_in=clause):
            term = None if clause.asynchronous else power(source, elt)
            return Series(clauses(clause), term) if term else None
        case cst.Call(func=func, args=[cst.Arg(value=value, keyword=None)]) if source.qualified(func) in _LISTS:
            return series(source, value, depth - 1)
        case cst.Name():
            return _assigned(
                source,
                node,
                lambda binding, value: series(source, value, depth - 1) or _appended(source, node, binding),
            )
    return None


def _assigned(
    source: Source, name: cst.Name, read: Callable[[Binding, cst.BaseExpression], Series | None]
) -> Series | None:
    """What `read` makes of the one value that a name was given; the assignment is remembered as used."""
    binding = only_assignment(source, name)
    if binding is None or binding.value is None:
        return None
    found = read(binding, binding.value)
    return found and found._replace(used=(*found.used, binding))


def _appended(source: Source, name: cst.Name, binding: Binding) -> Series | None:
    """The powers that a loop has appended to an empty list."""
    match binding.value:
        case cst.List(elements=[]) | cst.Call(func=cst.Name(value="list"), args=[]):
            loops = [one for one in accumulations(source) if one.how == "append" and _fills(source, one, name, binding)]
            return loops[0].series._replace(loop=loops[0]) if len(loops) == 1 else None
    return None


def _fills(source: Source, one: Accumulation, name: cst.Name, binding: Binding) -> bool:
    return (
        isinstance(one.target, cst.Name) and one.target.value == name.value and binding in reaching(source, one.target)
    )


def clauses(clause: cst.CompFor) -> tuple[Clause, ...]:
    """The `for`s of a comprehension, outermost first."""
    own = Clause(clause.target, clause.iter, tuple(Condition(one.test, True) for one in clause.ifs))
    return (own, *(clauses(clause.inner_for_in) if clause.inner_for_in else ()))


def flat(source: Source, node: cst.CSTNode, depth: int = _DEPTH) -> Series | None:
    """Gradients joined into one vector: as a series, each to the power 1."""
    if not depth:
        return None
    match node:
        case cst.Call(func=func, args=[cst.Arg(value=parts, keyword=None), *_]) if source.qualified(func) in _JOINS:
            return _joined(source, parts)
        case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value=method))) if method in _SAME_VECTOR:
            return flat(source, value, depth - 1) if source.qualified(node.func) is None else None
        case cst.Name():
            return _assigned(source, node, lambda _, value: flat(source, value, depth - 1))
    return None


def _joined(source: Source, parts: cst.BaseExpression) -> Series | None:
    match parts:
        case cst.ListComp(elt=elt, for_in=clause) | cst.GeneratorExp(elt=elt, for_in=clause):
            found = gradient(source, elt)
            return Series(clauses(clause), Power(found, TWO, ONE)) if found else None
        case cst.Name():
            return _assigned(source, parts, lambda _, value: _joined(source, value))
    return None


def _stacked(source: Source, node: cst.CSTNode) -> Series | None:
    """`torch.stack([…])` or `torch.tensor([…])` of powers, itself raised to a power or not."""
    match node:
        case cst.Call(func=func, args=[cst.Arg(value=inner, keyword=None), *_]) if source.qualified(func) in _STACKS:
            return series(source, inner)
        case cst.Call(func=cst.Attribute(value=inner, attr=cst.Name(value=method))) if method in PASS:
            return _stacked(source, inner)
        case cst.Name():
            return _assigned(source, node, lambda _, value: _stacked(source, value))
        case cst.BinaryOperation(operator=cst.Power()) | cst.Call(func=cst.Attribute(attr=cst.Name(value="pow"))):
            step = raised(source, node)
            found = step and _stacked(source, step.base)
            product = step and found and found.term.exponent.times(step.exponent)
            return found._replace(term=found.term._replace(exponent=product)) if found and product else None
    return None


# --- one number of them ----------------------------------------------------------------------------------------------


def total(source: Source, node: cst.CSTNode, depth: int = _DEPTH) -> Total | None:
    """The sum of powers over many gradients, or the norm of them all, that an expression computes."""
    if not depth or not isinstance(node, cst.BaseExpression):
        return None
    return _summed(source, node) or _norm_of_many(source, node) or _around(source, node, depth)


def _around(source: Source, node: cst.BaseExpression, depth: int) -> Total | None:
    """A power or a root of a total, or a call that hands it on."""
    step = raised(source, node)
    if step is not None:
        inner = total(source, step.base, depth - 1)
        outer = inner and inner.outer.times(step.exponent)
        if inner is None or outer is None:
            return None
        if step.kind == "tensor":
            return inner._replace(node=node, outer=outer)
        numpy = _module(source, node) if step.kind == "numpy" else ""
        return inner._replace(node=node, outer=outer, kind=step.kind, numpy=numpy)
    passed = through(source, node) if isinstance(node, cst.Call) else None
    if passed is None:
        return None
    value, kind = passed
    inner = total(source, value, depth - 1)
    return inner._replace(node=node, kind=kind or inner.kind) if inner and kind != "numpy" else None


def _module(source: Source, call: cst.CSTNode) -> str:
    """How numpy is written in `np.sqrt(…)`; empty where the function was imported by its name."""
    match call:
        case cst.Call(func=cst.Attribute(value=value)):
            return source.code(value)
    return ""


def _summed(source: Source, node: cst.BaseExpression) -> Total | None:
    """A sum of powers in Python, numpy or torch, without a start value other than zero."""
    match node:
        case cst.Call(func=func, args=[cst.Arg(value=inner, keyword=None, star=""), *rest]):
            function = source.qualified(func)
        case cst.Call(func=cst.Attribute(value=inner, attr=cst.Name(value="sum")), args=()):
            function, rest = "torch.sum", []
        case _:
            return None
    if any(not is_zero(source, arg.value) for arg in rest):
        return None
    match function:
        case "builtins.sum" | "math.fsum":
            found = series(source, inner)
            return found and Total(node, found, ONE, found.term.kind)
        case "numpy.sum":
            found = series(source, inner)
            return found and Total(node, found, ONE, "numpy", "sum", _module(source, node))
        case "torch.sum":
            found = _stacked(source, inner)
            return Total(node, found, ONE, found.term.kind, "stack") if found else _sum_of_squares(source, node, inner)
    return None


def _sum_of_squares(source: Source, node: cst.BaseExpression, inner: cst.CSTNode) -> Total | None:
    """`(flat ** 2).sum()`"""
    step = raised(source, inner)
    if step is None or step.exponent.value != 2:
        return None
    joined = flat(source, step.base)
    return joined and Total(node, joined._replace(term=joined.term._replace(exponent=TWO)), ONE, "tensor", "cat")


def _norm_of_many(source: Source, node: cst.BaseExpression) -> Total | None:
    """The norm of stacked norms, or of joined gradients."""
    asked = norm_call_of(source, node) if isinstance(node, cst.Call) else None
    if asked is None or not asked.order.number:
        return None
    kind: NumberKind = "numpy" if asked.numpy else "tensor"
    numpy = _module(source, node).partition(".")[0] if asked.numpy else ""
    order = asked.order
    root = order._replace(number=1 / order.number, degree=-order.degree, text="")
    stacked = _stacked(source, asked.tensor) or (series(source, asked.tensor) if asked.numpy else None)
    if stacked is not None:
        term = stacked.term
        if not term.exponent.is_one or not term.order.equals(order):
            return None
        return Total(node, stacked._replace(term=term._replace(exponent=term.order)), root, kind, "stack", numpy)
    joined = flat(source, asked.tensor)
    if joined is None:
        return None
    return Total(
        node, joined._replace(term=joined.term._replace(order=order, exponent=order)), root, kind, "cat", numpy
    )


def differentiable(source: Source, found: Series) -> bool:
    """Whether autograd may go through the tensors: then a norm without a graph would break a gradient penalty."""
    if found.term.gradient.graph:
        return True
    return any(has_graph(source, clause.iterable) for clause in found.clauses)


def totals(source: Source) -> Iterator[Total]:
    """Every norm of many gradients that one expression computes, as the largest expression that still is one."""
    for call in source.nodes(cst.Call):
        if _last(call.func) in _INNERMOST:
            found = _summed(source, call) or _norm_of_many(source, call)
            if found is not None:
                yield _largest(source, found)


def _largest(source: Source, found: Total) -> Total:
    for above in source.ancestors(found.node):
        if isinstance(above, (cst.Arg, cst.Attribute)):
            continue
        larger = total(source, above)
        if larger is None:
            break
        found = larger
    return found


_INNERMOST = frozenset({"sum", "fsum", "norm", "vector_norm"})


def _last(func: cst.BaseExpression) -> str:
    match func:
        case cst.Name(value=name) | cst.Attribute(attr=cst.Name(value=name)):
            return name
    return ""
