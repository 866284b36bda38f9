"""Which constants the limit of a clip can be at its use, and which tests it has to pass to get there."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple, TypeAlias

import libcst as cst

from clipcheck.python.assignments import assigned_value, item
from clipcheck.python.literals import number
from clipcheck.python.names import Binding, last_name
from clipcheck.python.reaching import reaching
from clipcheck.python.source import Source
from clipcheck.training.calls import callee
from clipcheck.training.guards import branches, conditions
from clipcheck.training.kept_settings import is_own, kept_values
from clipcheck.training.summaries import returned

Value: TypeAlias = "float | bool | str | None"
_DEPTH = 4  # maximum number of names and expressions to follow


class Guard(NamedTuple):
    """A test that decides whether a place is reached, and the required outcome."""

    test: cst.BaseExpression
    outcome: bool


class Constant(NamedTuple):
    """A possible value of an expression, and whether it is the only one."""

    value: Value
    always: bool = True


def constants(source: Source, limit: cst.BaseExpression) -> Iterator[Constant]:
    """The constants that `limit` can be, without those that a test around it may exclude."""
    looked_at = {node.value for guard in guards(source, limit) for node in _names(source, guard.test)}
    yield from _constants(source, limit, looked_at, _DEPTH)


def _constants(source: Source, node: cst.BaseExpression, looked_at: set[str], depth: int) -> Iterator[Constant]:
    if not depth:
        return
    match node:
        case cst.Name(value="True" | "False" | "None" as word):
            yield Constant({"True": True, "False": False, "None": None}[word])
        case cst.SimpleString(evaluated_value=str(text)):
            yield Constant(text)
        case cst.Name():
            yield from _of_name(source, node, looked_at, depth)
        case cst.Attribute():
            yield from _of_attribute(source, node, looked_at, depth)
        case cst.Subscript(value=cst.Name() as held, slice=[cst.SubscriptElement(slice=cst.Index(value=key))]):
            kept = None if held.value in looked_at else item(source, held, key)
            yield from () if kept is None else _constants(source, kept, looked_at, depth - 1)
        case cst.IfExp(test=test, body=body, orelse=orelse):
            if not _mentions(source, test, looked_at):
                yield from _sometimes(source, (body, orelse), looked_at, depth)
        case cst.BooleanOperation(left=left, operator=cst.Or(), right=right):
            if not _mentions(source, left, looked_at):
                yield from _sometimes(source, (right,), looked_at, depth)
        case cst.Call(func=cst.Name("float" | "int"), args=[cst.Arg(value=inner)]) if number(source, node) is None:
            yield from _constants(source, inner, looked_at, depth - 1)
        case cst.Call(args=[*_, cst.Arg(value=default)]) if _has_default(node):
            yield from _sometimes(source, (default,), looked_at, depth)
        case cst.Call() if (one := callee(source, node)) is not None and not _mentions(source, node.func, looked_at):
            yield from _sometimes(source, returned(source, one.function) or (), looked_at, depth)
        case _:
            value = number(source, node)
            if value is not None:
                yield Constant(value)


def _sometimes(
    source: Source, parts: tuple[cst.BaseExpression, ...], looked_at: set[str], depth: int
) -> Iterator[Constant]:
    for part in parts:
        yield from (Constant(found.value, False) for found in _constants(source, part, looked_at, depth - 1))


def _has_default(call: cst.Call) -> bool:
    """Whether the last argument of a call is a default that it may return: `d.get(key, 0)`."""
    match call.func, call.args:
        case cst.Attribute(attr=cst.Name("get" | "pop" | "setdefault")), [
            _,
            cst.Arg(keyword=None | cst.Name("default")),
        ]:
            return True
        case cst.Name("getattr"), [_, _, _]:
            return True
    return last_name(call.func) == "getenv" and len(call.args) == 2


def _of_name(source: Source, name: cst.Name, looked_at: set[str], depth: int) -> Iterator[Constant]:
    """The values that may have been assigned to a name; none if a test around its use refers to it."""
    bindings = reaching(source, name)
    if name.value in looked_at or not bindings:
        return
    alone = len(bindings) == 1
    if not alone and not all(_runs_with(source, name, binding) for binding in bindings):
        return
    for binding in bindings:
        value = assigned_value(source, binding) if binding.kind == "assign" else None
        if value is not None:
            found = _constants(source, value, looked_at, depth - 1)
            yield from (Constant(constant.value, alone and constant.always) for constant in found)


def _of_attribute(source: Source, node: cst.Attribute, looked_at: set[str], depth: int) -> Iterator[Constant]:
    """The fallbacks of what an attribute keeps, and the defaults of a class of settings.

    A constant that a method assigns may be the value before another one is known.
    """
    for value in kept_values(source, node):
        found = _constants(source, value, looked_at, depth - 1)
        yield from (one for one in found if not one.always or not is_own(node))


def _runs_with(source: Source, name: cst.Name, binding: Binding) -> bool:
    """Whether a use follows a binding without an additional test, which could mean that another binding was last."""
    if source.function(name) is not source.function(binding.node):
        return binding.kind == "parameter"
    around = {id(branch) for branch, _ in branches(source, binding.node)}
    return all(id(branch) in around for branch, _ in branches(source, name))


def _names(source: Source, node: cst.CSTNode) -> Iterator[cst.Name]:
    return (inner for inner in source.walk(node) if isinstance(inner, cst.Name))


def _mentions(source: Source, node: cst.CSTNode, names: set[str]) -> bool:
    return any(name.value in names for name in _names(source, node))


# --- tests ------------------------------------------------------------------------------------------------------------


def guards(source: Source, node: cst.CSTNode) -> Iterator[Guard]:
    """The tests that must pass to reach `node`: of branches around it, of early exits before it, in its expression."""
    yield from (Guard(branch.test, outcome) for branch, outcome in conditions(source, node))
    inner = node
    for above in source.ancestors(node):
        match above:
            case cst.IfExp(test=test) if inner is not test:
                yield Guard(test, inner is above.body)
            case cst.BooleanOperation(left=left, operator=kind, right=right) if inner is right:
                yield Guard(left, isinstance(kind, cst.And))
            case cst.FunctionDef() | cst.Lambda() | cst.ClassDef():
                return
        inner = above


def passes(source: Source, guard: Guard, limit: cst.BaseExpression, value: float) -> bool:
    """Whether a limit of this value can pass a test; other conditions in the test may be true or false."""
    return guard.outcome in _outcomes(source, guard.test, source.spelled(limit), value)


_BOTH = frozenset({True, False})
_COMPARED: Mapping[type[cst.BaseCompOp], Callable[[float, float], bool]] = MappingProxyType(
    {
        cst.LessThan: operator.lt,
        cst.LessThanEqual: operator.le,
        cst.GreaterThan: operator.gt,
        cst.GreaterThanEqual: operator.ge,
        cst.Equal: operator.eq,
        cst.NotEqual: operator.ne,
    }
)


def _outcomes(source: Source, test: cst.BaseExpression, limit: str, value: float) -> frozenset[bool]:
    """The possible outcomes of a test if the expression `limit` has this value."""
    match test:
        case cst.UnaryOperation(operator=cst.Not(), expression=inner):
            return frozenset(not outcome for outcome in _outcomes(source, inner, limit, value))
        case cst.BooleanOperation(left=left, operator=kind, right=right):
            one, other = (_outcomes(source, side, limit, value) for side in (left, right))
            both = isinstance(kind, cst.And)
            return frozenset((a and b) if both else (a or b) for a in one for b in other)
        case cst.Comparison(left=left, comparisons=comparisons):
            return _compared(source, left, comparisons, limit, value)
        case _ if source.spelled(test) == limit:
            return frozenset({bool(value)})
    return _BOTH


def _compared(
    source: Source, left: cst.BaseExpression, comparisons: Sequence[cst.ComparisonTarget], limit: str, value: float
) -> frozenset[bool]:
    """The possible outcomes of `a < b <= c`."""
    outcomes = frozenset({True})
    for comparison in comparisons:
        compare = _COMPARED.get(type(comparison.operator))
        right = comparison.comparator
        one, other = (value if source.spelled(side) == limit else number(source, side) for side in (left, right))
        if isinstance(comparison.operator, (cst.Is, cst.IsNot)) and source.spelled(right) == "None":
            here = frozenset({isinstance(comparison.operator, cst.IsNot)}) if source.spelled(left) == limit else _BOTH
        elif compare is None or one is None or other is None:
            here = _BOTH
        else:
            here = frozenset({compare(one, other)})
        outcomes = frozenset(a and b for a in outcomes for b in here)
        left = right
    return outcomes
