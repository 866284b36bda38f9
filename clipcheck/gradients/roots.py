"""The root of a sum of powers, taken somewhere after the loop that accumulates it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import libcst as cst

from clipcheck.gradients.exponents import exponent_of
from clipcheck.gradients.powers import NumberKind, Power, Raised, raised, through
from clipcheck.python.source import Source
from clipcheck.python.words import words


class Root(NamedTuple):
    """The root of an accumulator, taken at one of its uses."""

    use: cst.BaseExpression
    node: cst.CSTNode  # the expression, or the statement `t **= 0.5`
    kind: NumberKind
    numpy: str = ""  # the file's name for numpy, if the root is a numpy number


def root_of(source: Source, use: cst.BaseExpression, term: Power) -> Root | None:
    """The root of an accumulator at one of its uses, if it matches the power that `term` adds."""
    match source.parent(use):
        case cst.AugAssign(target=target, operator=cst.PowerAssign(), value=value) as statement if target is use:
            by = exponent_of(source, value)
            whole = by and term.order.times(by)
            return Root(use, statement, term.kind) if whole and whole.is_one else None
    number = term.kind != "tensor"
    root = Root(use, use, "float" if number else "tensor")
    degree = term.order
    while True:
        around = _around(source, root.node)
        if isinstance(around, cst.Call) and root.kind == "tensor":
            read = through(source, around)
            if read is not None and read.value is root.node and read.kind == "float":
                root = root._replace(node=around, kind="float")
                continue
        step = raised(source, around) if around is not None else None
        if around is None or step is None or step.base is not root.node:
            return None
        product = degree.times(step.exponent)
        taken = _raised_root(source, root, around, step, root.kind != "tensor")
        if product is None or taken is None:
            return None
        root, degree = taken, product
        if degree.is_one:
            return _as_read(source, root) if root.kind == "tensor" else root


def squared_is_wanted(source: Source, uses: Sequence[cst.Name], term: Power) -> bool:
    """Whether a sum of powers is used without a root: for a coefficient, a variance or a ratio, not as a norm."""
    if any(root_of(source, use, term) is not None for use in uses):
        return False
    return any(is_operand(source, use) for use in uses)


def is_operand(source: Source, node: cst.CSTNode) -> bool:
    """Whether an expression is an operand of arithmetic other than a power, which may be a misspelled root."""
    match source.parent(node):
        case cst.BinaryOperation(operator=cst.Power(), left=left) if left is node:
            return False
        case cst.BinaryOperation():
            return True
        case cst.AugAssign(value=value):
            return value is node
    return False


def _around(source: Source, node: cst.CSTNode) -> cst.CSTNode | None:
    """The operation or call whose operand an expression is."""
    above = source.parent(node)
    while isinstance(above, (cst.Arg, cst.Attribute)):
        above = source.parent(above)
    return above


def _raised_root(source: Source, root: Root, around: cst.CSTNode, step: Raised, number: bool) -> Root | None:
    """The root after one more operation; None if the operation would raise."""
    match step.kind, around:
        case "numpy", cst.Call(func=cst.Attribute(value=numpy)) if number:
            return root._replace(node=around, kind="numpy", numpy=source.code(numpy))
        case "numpy", _:
            return None
        case "float", _:
            return root._replace(node=around, kind="float")
        case "tensor", cst.Call(func=func) if number and source.qualified(func) != "builtins.pow":
            return None  # torch.sqrt of a float raises; a method of a float does not exist
    return root._replace(node=around)


def _as_read(source: Source, root: Root) -> Root:
    """The root of a tensor, including the `.item()` that reads it."""
    match _around(source, root.node):
        case cst.Call(func=cst.Attribute(value=value, attr=cst.Name(value="item")), args=()) as call if (
            value is root.node
        ):
            return Root(root.use, call, "float")
    return root


_SQUARES = frozenset("sq sqr square squares squared sum pow power acc accum 2 exponentiated".split())


def claims_to_be_norm(name: str) -> bool:
    """Whether a name says that it holds a norm, not a power of one."""
    parts = words(name)
    return any("norm" in part for part in parts) and not any(part in _SQUARES or part.endswith("2") for part in parts)
