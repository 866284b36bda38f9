"""Recognizes loops that sum the norms of tensors: what is added to what, and what else the loop does."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, TypeAlias

import libcst as cst

from clipcheck.gradients.gradient import Condition
from clipcheck.gradients.loops import Around, Clause, clauses_around, leaves, outermost, statements_beside
from clipcheck.gradients.powers import Power, power
from clipcheck.python.assignments import assigned_value, assigned_values
from clipcheck.python.literals import is_zero
from clipcheck.python.names import Binding
from clipcheck.python.reaching import contains, reaching_at
from clipcheck.python.source import Source, memo

How: TypeAlias = Literal["add", "append", "max"]


class Series(NamedTuple):
    """The power of the norm of each tensor that the clauses iterate over.

    `used` are the bindings of the names on the way to it, `loop` is the loop that appended the powers to a list.
    `array` says which library's array contains the powers if it is not a list ("torch", "numpy", or "fused" if one call
    computed them all); `joined` is the expression that concatenates the tensors into one vector.
    """

    clauses: tuple[Clause, ...]
    term: Power
    used: tuple[Binding, ...] = ()
    loop: Accumulation | None = None
    array: Literal["", "torch", "numpy", "fused"] = ""
    joined: cst.BaseExpression | None = None


class Accumulation(NamedTuple):
    """A statement that adds the power of one gradient's norm to something, and the loops that repeat it.

    `how` is "max" if it keeps the largest: for infinity norms, that is the infinity norm of all.

    `statement` is that statement, `target` is what it adds to; `loop` is the outermost loop that does nothing else;
    `series` is what is added, with the loops and tests around the statement. `extras` are the unrelated statements of
    the loop, `obstacle` names a side effect of the loop.
    """

    statement: cst.BaseSmallStatement
    target: cst.BaseExpression
    added: cst.BaseExpression
    how: How
    loop: cst.For
    series: Series
    extras: tuple[cst.CSTNode, ...]
    obstacle: str = ""

    @property
    def term(self) -> Power:
        return self.series.term

    @property
    def is_total(self) -> bool:
        """Whether the result is a norm of all tensors, or a power of it: not the sum of their norms."""
        return self.how == "max" or not self.term.exponent.is_one


@memo
def accumulations(source: Source) -> tuple[Accumulation, ...]:
    """Every accumulation of gradient norms in a program, in source order."""
    found = [
        accumulation
        for kind in (cst.AugAssign, cst.Assign, cst.Expr)
        for statement in source.nodes(kind)
        if source.enclosing(statement, cst.For) is not None
        for accumulation in [_accumulation(source, statement)]
        if accumulation is not None
    ]
    return tuple(sorted(found, key=lambda one: source.rank(one.statement)))


def _accumulation(source: Source, statement: cst.BaseSmallStatement) -> Accumulation | None:
    added = _added(source, statement)
    if added is None:
        return None
    target, value, how = added
    term = power(source, value)
    inner = source.enclosing(statement, cst.For, cst.FunctionDef, cst.Lambda)
    if term is None or not isinstance(inner, cst.For):
        return None
    if how == "max" and term.order.value != math.inf:
        return None  # the largest norm is not the norm of all
    loop = outermost(source, inner)
    if not selects(source, term, clauses_around(source, statement, loop).clauses):
        return None
    return _described(source, Accumulation(statement, target, value, how, loop, Series((), term), ()))


def selects(source: Source, term: Power, clauses: Iterable[Clause]) -> bool:
    """Whether loops iterate over gradients: not if each iteration computes the gradients of the same tensors again."""
    targets = {node.value for one in clauses for node in source.walk(one.target) if isinstance(node, cst.Name)}
    return _depends(source, term.gradient.node, targets)


def _depends(source: Source, node: cst.CSTNode, names: set[str], depth: int = 4) -> bool:
    """Whether an expression is computed from one of these names other than by differentiation."""
    inner = list(source.walk(node))
    if any(isinstance(one, cst.Call) and source.qualified(one.func) == "torch.autograd.grad" for one in inner):
        return False
    read = [one for one in inner if isinstance(one, cst.Name) and not _is_attribute(source, one)]
    if any(one.value in names for one in read):
        return True
    values = (value for one in read if depth for value in assigned_values(source, one) if value is not None)
    return any(_depends(source, value, names, depth - 1) for value in values)


def _is_attribute(source: Source, name: cst.Name) -> bool:
    match source.parent(name):
        case cst.Attribute(attr=attr):
            return attr is name
    return False


def _added(
    source: Source, statement: cst.BaseSmallStatement
) -> tuple[cst.BaseExpression, cst.BaseExpression, How] | None:
    """What a statement adds, and to what."""
    match statement:
        case cst.AugAssign(target=target, operator=cst.AddAssign(), value=value):
            return target, value, "add"
        case cst.Assign(
            targets=[cst.AssignTarget(target=target)],
            value=cst.BinaryOperation(left=left, operator=cst.Add(), right=right),
        ):
            for other, value in ((left, right), (right, left)):
                if source.spelled(other) == source.spelled(target) or _is_looked_up(source, other, target):
                    return target, value, "add"
        case cst.Assign(targets=[cst.AssignTarget(target=target)], value=value):
            largest = _largest_of(source, target, value)
            return (target, largest, "max") if largest is not None else None
        case cst.Expr(
            value=cst.Call(
                func=cst.Attribute(value=target, attr=cst.Name(value="add_" | "append" as method)),
                args=[cst.Arg(value=value, keyword=None, star="")],
            )
        ):
            return target, value, "append" if method == "append" else "add"
    return None


def _is_looked_up(source: Source, value: cst.BaseExpression, target: cst.BaseExpression) -> bool:
    """Whether an expression is the last value of `sums[key]`, or zero: `sums.get(key, 0.0)`."""
    match value, target:
        case (
            cst.Call(func=cst.Attribute(value=table, attr=cst.Name("get")), args=[cst.Arg(value=key), default]),
            cst.Subscript(value=place, slice=[cst.SubscriptElement(slice=cst.Index(value=index))]),
        ):
            same = source.spelled(table) == source.spelled(place) and source.spelled(key) == source.spelled(index)
            return same and is_zero(source, default.value)
    return False


_MAXIMA = frozenset({"builtins.max", "numpy.maximum", "torch.maximum", "torch.max"})


def _largest_of(source: Source, target: cst.BaseExpression, value: cst.BaseExpression) -> cst.BaseExpression | None:
    """The value that replaces a smaller `target`: `max(target, value)`, or an assignment under an `if`."""
    match value:
        case cst.Call(func=func, args=[cst.Arg(value=one), cst.Arg(value=other)]) if source.qualified(func) in _MAXIMA:
            for kept, new in ((one, other), (other, one)):
                if source.spelled(kept) == source.spelled(target):
                    return new
            return None
    match source.enclosing(value, cst.If, cst.For):
        case cst.If(
            test=cst.Comparison(left=left, comparisons=[cst.ComparisonTarget(operator=operator, comparator=right)])
        ):
            sides = {source.spelled(left), source.spelled(right)}
            ordered = isinstance(operator, (cst.GreaterThan, cst.GreaterThanEqual, cst.LessThan, cst.LessThanEqual))
            return value if ordered and sides == {source.spelled(target), source.spelled(value)} else None
    return None


class _Helper(NamedTuple):
    """A name that the loop sets on the way to the norm, the tests around its assignment, and what else they guard."""

    binding: Binding
    tests: tuple[Condition, ...]
    obstacle: str


def _described(source: Source, one: Accumulation) -> Accumulation:
    """The accumulation with its loops and tests, the other statements, and its first side effect, if any."""
    around = clauses_around(source, one.statement, one.loop)
    helpers = _helpers(source, one, around)
    *outer, last = around.clauses
    tests = (*last.conditions, *(test for helper in helpers for test in helper.tests), *one.term.gradient.guards)
    helping = [source.enclosing(binding.node, cst.Assign, cst.AnnAssign) for binding in _set_inside(source, one)]
    return one._replace(
        series=Series((*outer, last._replace(conditions=tests)), one.term),
        extras=statements_beside(source, one.loop.body, (one.statement, *helping)),
        obstacle=next(filter(None, _obstacles(source, one, around, helpers)), ""),
    )


def _set_inside(source: Source, one: Accumulation) -> list[Binding]:
    return [binding for binding in one.term.gradient.via if contains(source, one.loop, binding.node)]


def _helpers(source: Source, one: Accumulation, around: Around) -> list[_Helper]:
    known = {_spelled(source, test) for clause in around.clauses for test in clause.conditions}
    found: list[_Helper] = []
    for binding in _set_inside(source, one):
        if _is_default(source, binding):
            continue
        clauses, obstacle = clauses_around(source, binding.node, one.loop)
        new: list[Condition] = []
        for test in (test for clause in clauses for test in clause.conditions):
            if _spelled(source, test) not in known:
                known.add(_spelled(source, test))
                new.append(test)
        found.append(_Helper(binding, tuple(new), obstacle))
    return found


def _obstacles(source: Source, one: Accumulation, around: Around, helpers: list[_Helper]) -> Iterator[str]:
    """Why the loop cannot be replaced; empty if nothing prevents it."""
    yield around.obstacle
    defaults = {binding.name for binding in _set_inside(source, one) if _is_default(source, binding)}
    for helper in helpers:
        yield helper.obstacle
        if helper.tests and helper.binding.name not in defaults:
            yield f"`{helper.binding.name}` of an earlier iteration may be added again"
    if not one.term.gradient.certain:
        yield "the norm is computed in more than one way"
    if one.loop.asynchronous is not None:
        yield "the loop is asynchronous"
    if one.loop.orelse is not None:
        yield "the loop has an `else`"
    if any(leaves(node) for node in source.walk(one.loop.body)):
        yield "the loop may exit early"


def _spelled(source: Source, condition: Condition) -> tuple[str, bool]:
    return source.spelled(condition.test), condition.holds


def _is_default(source: Source, binding: Binding) -> bool:
    """Whether a helper is set to the zero that replaces a missing norm."""
    value = assigned_value(source, binding)
    return value is not None and is_zero(source, value)


def fresh(source: Source, one: Accumulation) -> Binding | None:
    """The assignment that sets the accumulator to zero before the loop, if nothing else can have filled it."""
    if not isinstance(one.target, cst.Name):
        return None
    match reaching_at(source, one.loop, one.target.value):
        case [Binding(kind="assign") as seed]:
            return seed
    return None


_REDUCTION = re.compile(r"all_?reduce|reduce_|_reduce\b")


def reduced(source: Source, at: cst.CSTNode, target: cst.BaseExpression) -> bool:
    """Whether the sum in `target` is reduced over processes: it is part of a norm, and the code accounts for that."""
    if not _REDUCTION.search(source.text):  # most files: do not walk through them for each loop
        return False
    function = source.function(at)
    names = {source.code(target)}
    for assign in source.nodes(cst.Assign):
        match assign.targets[0].target:
            case cst.Name(value=name) if source.function(assign) is function and _mentions(source, assign.value, names):
                names.add(name)
    return any(
        source.function(call) is function
        and _REDUCTION.search(source.spelled(call.func))
        and any(_mentions(source, arg.value, names) for arg in call.args)
        for call in source.nodes(cst.Call)
    )


def _mentions(source: Source, node: cst.CSTNode, names: set[str]) -> bool:
    return any(
        type(inner) in (cst.Name, cst.Attribute, cst.Subscript) and source.code(inner) in names
        for inner in source.walk(node)
    )
