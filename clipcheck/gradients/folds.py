"""Recognizes norms of gradients that `functools.reduce` sums, with a lambda, a function of the file or an operator."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.gradients.accumulations import Series, selects
from clipcheck.gradients.gradient import Condition
from clipcheck.gradients.loops import Clause
from clipcheck.gradients.powers import power
from clipcheck.gradients.series import series
from clipcheck.python.literals import is_zero
from clipcheck.python.names import Binding
from clipcheck.python.source import Source


def folded(source: Source, call: cst.Call) -> tuple[Series, str] | None:
    """What a call of `functools.reduce` iterates over, and whether it adds or keeps the largest ("add", "max")."""
    match call.args:
        case [cst.Arg(value=function), cst.Arg(value=iterable), *start] if all(
            is_zero(source, arg.value) for arg in start
        ):
            pass
        case _:
            return None
    if source.qualified(function) in ("operator.add", "builtins.max", "numpy.add", "torch.add"):
        found = series(source, iterable)
        return (found, "max" if source.qualified(function) == "builtins.max" else "add") if found else None
    match function:
        case cst.Lambda(params=cst.Parameters(params=[cst.Param(name=total), cst.Param(name=one)]), body=body):
            return _step(source, total.value, one, iterable, [body])
        case cst.Name():
            match source.bindings(function):
                case [Binding(node=cst.FunctionDef() as named)]:
                    return _step_of(source, named, iterable)
    return None


def _step_of(source: Source, function: cst.FunctionDef, iterable: cst.BaseExpression) -> tuple[Series, str] | None:
    """One step of a reduction in a separate function, from which its terms cannot be moved."""
    match function.params.params:
        case [cst.Param(name=total), cst.Param(name=one)]:
            returned = [n.value for n in source.walk(function) if isinstance(n, cst.Return) and n.value is not None]
            step = _step(source, total.value, one, iterable, returned)
            return step and (_uncertain(step[0]), step[1])
    return None


def _uncertain(found: Series) -> Series:
    """A series whose terms are computed in a separate function."""
    term = found.term
    return found._replace(term=term._replace(gradient=term.gradient._replace(certain=False)))


def _step(
    source: Source, total: str, one: cst.Name, iterable: cst.BaseExpression, results: list[cst.BaseExpression]
) -> tuple[Series, str] | None:
    """One step of a reduction: each possible result is the total, or the total plus the power of one tensor."""
    steps = [found for result in results for found in _ways(source, result, total)]
    added = [step for step in steps if step is not None]
    if len(added) != 1 or not added[0][1]:
        return None
    value, how, tests = added[0]
    term = power(source, value)
    around = (Clause(one, iterable, tests),)
    return (Series(around, term), how) if term is not None and selects(source, term, around) else None


def _ways(
    source: Source, node: cst.BaseExpression, total: str, tests: tuple[Condition, ...] = ()
) -> Iterator[tuple[cst.BaseExpression, str, tuple[Condition, ...]] | None]:
    """What an expression adds to the total, and how, per way to compute it; None for nothing, no `how` if unknown."""
    match node:
        case cst.Name(value=name) if name == total:
            yield None
        case cst.IfExp(test=test, body=body, orelse=orelse):
            yield from _ways(source, body, total, (*tests, Condition(test, True)))
            yield from _ways(source, orelse, total, (*tests, Condition(test, False)))
        case cst.BinaryOperation(left=cst.Name(value=name), operator=cst.Add(), right=value) if name == total:
            yield value, "add", tests
        case cst.BinaryOperation(left=value, operator=cst.Add(), right=cst.Name(value=name)) if name == total:
            yield value, "add", tests
        case cst.Call(func=func, args=[cst.Arg(value=one), cst.Arg(value=other)]) if source.qualified(
            func
        ) == "builtins.max" and total in (source.code(one), source.code(other)):
            yield (other if source.code(one) == total else one), "max", tests
        case _:
            yield node, "", tests
