"""The parameters or gradients that a recognized norm iterates over, as code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import libcst as cst

from clipcheck.gradients.accumulations import Series
from clipcheck.gradients.gradient import Condition, gradient
from clipcheck.gradients.loops import Clause
from clipcheck.gradients.powers import Power
from clipcheck.python.source import Source


class Refused(NamedTuple):
    """Why a norm is reported but not rewritten."""

    why: str


def joined(pieces: tuple[str, ...]) -> str:
    return f"[{' '.join(pieces)}]" if len(pieces) > 1 else pieces[0]


def carried(source: Source, found: Series) -> Series | Refused:
    """The series with only the tests that a comprehension has to repeat, split at `and`."""
    kept = []
    for clause in found.clauses:
        tests = tuple(one for condition in clause.conditions for one in _split(source, condition))
        for test in tests:
            if any(isinstance(node, (cst.NamedExpr, cst.Await, cst.Yield)) for node in source.walk(test.test)):
                return Refused("the condition in the loop has a side effect")
        kept.append(clause._replace(conditions=tests))
    inside = {binding.name for binding in found.term.gradient.via}
    for clause in kept:
        for test in clause.conditions:
            if is_none_test(source, found.term, test):
                continue
            for node in source.walk(test.test):
                if isinstance(node, cst.Name) and node.value in inside:
                    return Refused(f"the condition in the loop depends on `{node.value}`")
    return found._replace(clauses=tuple(kept))


def _split(source: Source, condition: Condition) -> Iterator[Condition]:
    test, holds = condition
    match test:
        case cst.BooleanOperation(left=left, operator=cst.And(), right=right) if holds:
            yield from _split(source, Condition(left, True))
            yield from _split(source, Condition(right, True))
        case cst.BooleanOperation(left=left, operator=cst.Or(), right=right) if not holds:
            yield from _split(source, Condition(left, False))
            yield from _split(source, Condition(right, False))
        case cst.UnaryOperation(operator=cst.Not(), expression=inner):
            yield from _split(source, Condition(inner, not holds))
        case _:
            yield condition


def is_none_test(source: Source, term: Power, condition: Condition) -> bool:
    """Whether a test only skips missing gradients."""
    match condition.test:
        case cst.Comparison(
            left=left,
            comparisons=[
                cst.ComparisonTarget(
                    operator=(cst.IsNot() | cst.NotEqual() | cst.Is() | cst.Equal()) as operator,
                    comparator=cst.Name(value="None"),
                )
            ],
        ):
            positive = isinstance(operator, (cst.IsNot, cst.NotEqual))
            found = gradient(source, left)
            return (
                positive == condition.holds
                and found is not None
                and source.spelled(found.node) == source.spelled(term.gradient.node)
            )
        case cst.Call(func=func, args=[cst.Arg(value=owner), cst.Arg(value=cst.SimpleString(evaluated_value="grad"))]):
            return (
                condition.holds
                and source.qualified(func) == "builtins.hasattr"
                and term.gradient.owner is not None
                and source.code(owner) == source.code(term.gradient.owner)
            )
    return False


def parameters_pieces(source: Source, found: Series) -> tuple[str, ...]:
    """The argument of `grad_norm`: the iterable itself if the loop uses every element unchanged."""
    owner = found.term.gradient.owner
    assert owner is not None
    clauses = tuple(
        clause._replace(conditions=tuple(c for c in clause.conditions if not is_none_test(source, found.term, c)))
        for clause in found.clauses
    )
    return _argument(source, clauses, owner, source.code(owner))


def parameters_code(source: Source, found: Series) -> str:
    """The parameters whose gradients a series iterates over, as code."""
    return joined(parameters_pieces(source, found))


def parameters_of(source: Source, found: Series) -> tuple[str, ...]:
    """The code, without whitespace, of the parameters whose gradients a series iterates over."""
    owner = found.term.gradient.owner
    scoped = carried(source, found)
    if isinstance(scoped, Refused):
        return ()
    if owner is not None:
        return ("".join(parameters_code(source, scoped).split()),)
    # gradients of a list of parameters: [p.grad for p in parameters]
    match found.clauses:
        case (Clause(iterable=(cst.ListComp() | cst.GeneratorExp()) as inner),):
            element = gradient(source, inner.elt)
            if element is not None and element.owner is not None:
                return (source.spelled(inner.for_in.iter),)
    return ()


def gradients_pieces(source: Source, found: Series) -> tuple[str, ...]:
    """The argument of `get_total_norm`: gradients without None."""
    term = found.term
    clauses = found.clauses
    tested = any(is_none_test(source, term, c) for clause in clauses for c in clause.conditions)
    element = source.code(term.gradient.node)
    extra = ""
    if term.gradient.owner is not None and not tested and source.target == "torch":
        extra = f"if {source.code(term.gradient.node)} is not None"
    return _argument(source, clauses, term.gradient.node, element, extra)


def _argument(
    source: Source, clauses: Sequence[Clause], wanted: cst.BaseExpression, element: str, extra: str = ""
) -> tuple[str, ...]:
    """The iterable itself, or the parts of a list comprehension over it."""
    if len(clauses) == 1 and not clauses[0].conditions:
        clause = clauses[0]
        if element == source.code(clause.target) and source.code(wanted) == element:
            return (source.outer_code(clause.iterable),)
        bare = _without_names(source, clause, element)
        if bare:
            return (bare,)
    parts = [element]
    for clause in clauses:
        parts.append(f"for {source.code(clause.target)} in {source.outer_code(clause.iterable)}")
        parts += [f"if {_condition(source, test)}" for test in clause.conditions]
    return (*parts, extra) if extra else tuple(parts)


def _without_names(source: Source, clause: Clause, element: str) -> str:
    """`model.parameters()` instead of `model.named_parameters()` if the names are not used."""
    match clause.target, clause.iterable:
        case (
            cst.Tuple(elements=[_, cst.Element(value=cst.Name(value=second))]),
            cst.Call(func=cst.Attribute(value=module, attr=cst.Name(value="named_parameters")), args=()),
        ) if second == element:
            return f"{source.outer_code(module)}.parameters()"
    return ""


_NEGATED: dict[type, str] = {cst.Is: "is not", cst.IsNot: "is", cst.In: "not in", cst.NotIn: "in"}


def _condition(source: Source, condition: Condition) -> str:
    text = source.outer_code(condition.test)
    match condition.test:
        case cst.IfExp() | cst.BooleanOperation(operator=cst.Or()) if not condition.test.lpar:
            text = f"({text})"
    if condition.holds:
        return text
    match condition.test:
        case cst.Comparison(left=left, comparisons=[cst.ComparisonTarget(operator=operator, comparator=right)]) if (
            type(operator) in _NEGATED
        ):
            return f"{source.code(left)} {_NEGATED[type(operator)]} {source.outer_code(right)}"
        case cst.BooleanOperation() | cst.Comparison():
            return f"not ({source.code(condition.test)})"
    return f"not {text}"
