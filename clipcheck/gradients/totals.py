"""Recognizes the norm of many gradients in one expression: `(Σ ‖g‖ₚ ** q) ** r`, or a norm of joined tensors.

`clipcheck.gradients.powers` recognizes one term, `clipcheck.gradients.series` many, and
`clipcheck.gradients.accumulations` the sum in a loop. Names, notation and the number of statements make no difference.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, TypeAlias

import libcst as cst

from clipcheck.gradients.accumulations import Series
from clipcheck.gradients.exponents import ONE, TWO, Exponent
from clipcheck.gradients.folds import folded
from clipcheck.gradients.graphs import has_graph
from clipcheck.gradients.norm_functions import norm_call_of
from clipcheck.gradients.powers import NumberKind, Power, raised, through
from clipcheck.gradients.series import DEPTH, flat, series
from clipcheck.python.literals import is_zero
from clipcheck.python.source import Source, memo

# For joined gradients, "mean" is the mean of the squares; for infinity norms, "max" is the largest.
Form: TypeAlias = Literal["sum", "stack", "cat", "mean", "max"]


class Total(NamedTuple):
    """`(Σ term) ** outer` as one expression.

    `form` is "cat" if the tensors were joined first, "stack" if their norms were; `cast` is the dtype argument, if any,
    of the norm of these.
    """

    node: cst.BaseExpression
    series: Series
    outer: Exponent
    kind: NumberKind
    form: Form = "sum"
    numpy: str = ""  # the file's name for numpy, if the value is a numpy number
    cast: str = ""

    @property
    def term(self) -> Power:
        return self.series.term

    @property
    def degree(self) -> Exponent | None:
        """The power of the total norm that the value is: 1 for the norm, p for its p-th power."""
        if self.form == "max":
            return self.outer
        if self.form == "mean" or not self.term.order.equals(self.term.exponent):
            return None
        return self.term.order.times(self.outer)

    @property
    def is_total(self) -> bool:
        """Whether the result is a norm of all tensors, or a power of it: not the sum of their norms."""
        return self.form in ("cat", "max") or not self.term.exponent.is_one


# --- one number from many ---------------------------------------------------------------------------------------------


def total(source: Source, node: cst.CSTNode, depth: int = DEPTH) -> Total | None:
    """The sum of powers over many gradients, or the norm of all of them, that an expression computes."""
    if not depth or not isinstance(node, cst.BaseExpression):
        return None
    return _at_once(source, node) or _around(source, node, depth)


def _at_once(source: Source, node: cst.BaseExpression) -> Total | None:
    """A total that one operation computes."""
    match node:
        case cst.Call(func=func) if _last(source, func) in _CALLS:
            return _summed(source, node) or _multiplied(source, node) or _norm_of_many(source, node)
    return None


_CALLS = frozenset("sum fsum max amax mean reduce dot vdot norm vector_norm".split())


def _around(source: Source, node: cst.BaseExpression, depth: int) -> Total | None:
    """A power or a root of a total, or a call that returns it."""
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
    inner = total(source, passed.value, depth - 1)
    return inner._replace(node=node, kind=passed.kind or inner.kind) if inner and passed.kind != "numpy" else None


def _module(source: Source, call: cst.CSTNode) -> str:
    """The name of numpy in `np.sqrt(…)`; empty if the function was imported by name."""
    match call:
        case cst.Call(func=cst.Attribute(value=value)):
            return source.code(value)
    return ""


def _summed(source: Source, node: cst.Call) -> Total | None:
    """A sum of powers in Python, numpy or torch without a nonzero start value; or the largest of infinity norms."""
    match node:
        case cst.Call(func=func, args=[cst.Arg(value=inner, keyword=None, star=""), *rest]) if source.qualified(func):
            function = source.origin(func)
        case cst.Call(func=cst.Attribute(value=inner, attr=cst.Name(value=method)), args=()):
            function, rest = f".{method}", []
        case _:
            return None
    if function == "functools.reduce":
        step = folded(source, node)
        return step and _of_series(source, node, *step)
    if any(not is_zero(source, arg.value) for arg in rest):
        return None
    match _VERBS.get(function, ""):
        case "add" | "max" as how:
            found = series(source, inner)
            if found is not None:
                return _of_series(source, node, found, how)
            return _sum_of_squares(source, node, inner, "cat") if how == "add" else None
        case "mean":
            return _sum_of_squares(source, node, inner, "mean")
    return None


_VERBS: dict[str, Literal["add", "max", "mean"]] = {
    **dict.fromkeys(("builtins.sum", "math.fsum", "numpy.sum", "torch.sum", ".sum"), "add"),
    **dict.fromkeys(("builtins.max", "numpy.max", "numpy.amax", "torch.max", "torch.amax", ".max", ".amax"), "max"),
    **dict.fromkeys(("numpy.mean", "torch.mean", ".mean"), "mean"),
}


def _of_series(source: Source, node: cst.Call, found: Series, how: str) -> Total | None:
    """The sum of a series, or its largest element."""
    if how == "max" and not (found.term.order.value == math.inf and found.term.exponent.is_one):
        return None
    function = source.origin(node.func)
    kind: NumberKind = found.term.kind
    if function.startswith("numpy."):
        kind = "numpy"
    elif found.array:
        kind = "numpy" if found.array == "numpy" else "tensor"
    form: Form = "max" if how == "max" else "stack" if found.array in ("torch", "fused") else "sum"
    return Total(node, found, ONE, kind, form, _module(source, node) if function.startswith("numpy.") else "")


def _sum_of_squares(source: Source, node: cst.BaseExpression, inner: cst.CSTNode, form: Form) -> Total | None:
    """`(flat ** 2).sum()`"""
    step = raised(source, inner)
    if step is None or step.exponent.value != 2:
        return None
    return _squared(source, node, step.base, form)


def _squared(source: Source, node: cst.BaseExpression, vector: cst.CSTNode, form: Form = "cat") -> Total | None:
    joined = flat(source, vector)
    if joined is None:
        return None
    kind: NumberKind = "numpy" if joined.term.read else "tensor"
    return Total(node, joined._replace(term=joined.term._replace(exponent=TWO)), ONE, kind, form)


def _product(
    source: Source, node: cst.BaseExpression, one: cst.BaseExpression, other: cst.BaseExpression
) -> Total | None:
    """`flat.dot(flat)`"""
    return _squared(source, node, one) if source.code(one) == source.code(other) else None


def _multiplied(source: Source, node: cst.Call) -> Total | None:
    """`flat.dot(flat)`, `np.dot(flat, flat)`"""
    match node:
        case cst.Call(args=[cst.Arg(value=one), cst.Arg(value=other)]) if _last(source, node.func) in ("dot", "vdot"):
            return _product(source, node, one, other)
        case cst.Call(func=cst.Attribute(value=one, attr=cst.Name(value="dot" | "vdot")), args=[cst.Arg(value=other)]):
            return _product(source, node, one, other)
    return None


def _norm_of_many(source: Source, node: cst.Call) -> Total | None:
    """The norm of stacked norms, or of joined gradients."""
    asked = norm_call_of(source, node)
    if asked is None or not asked.order.number:
        return None
    kind: NumberKind = "numpy" if asked.numpy else "tensor"
    numpy = _module(source, node).partition(".")[0] if asked.numpy else ""
    order = asked.order
    found = series(source, asked.tensor)
    if found is not None and (found.array or asked.numpy):
        term = found.term
        if not term.exponent.is_one or not term.order.equals(order):
            return None
        if order.value == math.inf:
            return Total(node, found, ONE, kind, "max", numpy, asked.cast)
        return Total(node, _to(found, term, order), _root(order), kind, "stack", numpy, asked.cast)
    joined = flat(source, asked.tensor)
    if joined is None:
        return None
    return Total(node, _to(joined, joined.term, order), _root(order), kind, "cat", numpy, asked.cast)


def _to(found: Series, term: Power, order: Exponent) -> Series:
    """The series of powers that a norm of this order sums."""
    return found._replace(term=term._replace(order=order, exponent=order))


def _root(order: Exponent) -> Exponent:
    return order._replace(number=1 / order.number, degree=-order.degree, text="")


def differentiable(source: Source, found: Series) -> bool:
    """Whether the tensors may be part of an autograd graph: a norm without a graph would break a gradient penalty."""
    if found.term.gradient.graph:
        return True
    return any(has_graph(source, clause.iterable) for clause in found.clauses)


@memo
def totals(source: Source) -> tuple[Total, ...]:
    """Every norm of many gradients in a single expression, each as the largest such expression."""
    found = (_at_once(source, node) for node in source.nodes(cst.Call))
    return tuple(_largest(source, one) for one in found if one is not None)


def _largest(source: Source, found: Total) -> Total:
    for above in source.ancestors(found.node):
        if isinstance(above, (cst.Arg, cst.Attribute)):
            continue
        larger = total(source, above)
        if larger is None:
            break
        found = larger
    return found


def _last(source: Source, func: cst.BaseExpression) -> str:
    """The last part of the name of a function."""
    match func:
        case cst.Name(value=name):
            return (source.qualified(func) or name).rpartition(".")[2]
        case cst.Attribute(attr=cst.Name(value=name)):
            return name
    return ""
