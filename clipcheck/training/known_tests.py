"""The known outcomes of tests at a place, because they surround it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TypeAlias

import libcst as cst

from clipcheck.python.source import Source, memo
from clipcheck.training.guards import branches, loops


def facts(source: Source, node: cst.CSTNode, renamed: Mapping[str, str], called: bool) -> frozenset[tuple[str, bool]]:
    """The outcomes of the tests around `node` in its function, as the caller writes them if a call led there."""
    found: set[tuple[str, bool]] = set()
    for branch, outcome in branches(source, node):
        for test, known in known_in(source, branch, outcome):
            root = _NAME.match(test)
            if not called or root is None:
                found.add((test, known))
            elif root.group() in renamed and len(set(_NAME.findall(test)) & renamed.keys()) == 1:
                found.add((renamed[root.group()] + test[root.end() :], known))
    return frozenset(found)


_NAME = re.compile(r"(?<![\w.])[A-Za-z_]\w*")


KnownOutcomes: TypeAlias = "tuple[tuple[str, bool], ...]"


@memo
def known_in(source: Source, branch: cst.If, outcome: bool) -> KnownOutcomes:
    """The outcomes that are known throughout a branch; called for every event inside it."""
    return tuple(_outcomes(source, branch.test, outcome)) if _is_stable(source, branch.test) else ()


def _outcomes(source: Source, test: cst.BaseExpression, outcome: bool) -> Iterator[tuple[str, bool]]:
    """The outcomes that follow if `test` is `outcome`."""
    match test:
        case cst.UnaryOperation(operator=cst.Not(), expression=inner):
            yield from _outcomes(source, inner, not outcome)
        case cst.BooleanOperation(left=left, operator=cst.And(), right=right) if outcome:
            yield from _outcomes(source, left, True)
            yield from _outcomes(source, right, True)
        case cst.BooleanOperation(left=left, operator=cst.Or(), right=right) if not outcome:
            yield from _outcomes(source, left, False)
            yield from _outcomes(source, right, False)
        case cst.Comparison(
            left=left, comparisons=[cst.ComparisonTarget(operator=cst.IsNot(), comparator=cst.Name("None"))]
        ):
            yield f"{source.spelled(left)} is None", not outcome
        case cst.Comparison(
            left=left, comparisons=[cst.ComparisonTarget(operator=cst.Is(), comparator=cst.Name("None"))]
        ):
            yield f"{source.spelled(left)} is None", outcome
        case _:
            yield source.spelled(test), outcome


def _is_stable(source: Source, test: cst.BaseExpression) -> bool:
    """Whether a test has the same outcome throughout a run: it calls nothing, and no name in it changes in a loop."""
    for node in source.walk(test):
        match node:
            case cst.Call() | cst.Subscript() | cst.BinaryOperation():
                return False
            case cst.Name() if any(
                (b.kind != "parameter" and loops(source, b.node)) or b.kind in ("for", "augmented")
                for b in source.bindings(node)
            ):
                return False
    return True
