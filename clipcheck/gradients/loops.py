"""The loops around a statement, the tests in them, and what else their bodies do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import libcst as cst

from clipcheck.gradients.gradient import Condition
from clipcheck.python.source import Source


class Clause(NamedTuple):
    """One `for target in iterable` with the tests under it."""

    target: cst.BaseExpression
    iterable: cst.BaseExpression
    conditions: tuple[Condition, ...] = ()


class Around(NamedTuple):
    """The loops around a statement, outermost first, each with the tests in it, and the other statements in them."""

    clauses: tuple[Clause, ...]
    obstacle: str


def clauses_around(source: Source, node: cst.CSTNode, loop: cst.For) -> Around:
    """The loops from `loop` inward to `node`, each with the tests in between."""
    found: list[Clause] = []
    tests: list[Condition] = []
    obstacle = ""
    child = node
    for parent in source.ancestors(node):
        obstacle = _obstacle(source, parent) or obstacle
        match parent:
            case cst.IndentedBlock(body=body):
                before = body[: next(i for i, other in enumerate(body) if other is child)]
                tests += [Condition(test, False) for test in map(_skipped, reversed(before)) if test is not None]
            case cst.If(test=test):
                tests.append(Condition(test, child is parent.body))
            case cst.For():
                found.append(Clause(parent.target, parent.iter, tuple(reversed(tests))))
                tests = []
                if parent is loop:
                    break
        child = parent
    return Around(tuple(reversed(found)), obstacle)


def _obstacle(source: Source, statement: cst.CSTNode) -> str:
    match statement:
        case cst.Try():
            return "errors in the loop are caught"
        case cst.While():
            return "there is another loop inside"
        case cst.With() if not _is_no_grad(source, statement):
            return "the loop's body is inside a `with`"
    return ""


def _is_no_grad(source: Source, statement: cst.With) -> bool:
    return all(
        isinstance(item.item, cst.Call)
        and source.qualified(item.item.func) in ("torch.no_grad", "torch.inference_mode", "torch.autograd.no_grad")
        for item in statement.items
    )


def _skipped(item: cst.CSTNode) -> cst.BaseExpression | None:
    """The test of an `if …: continue`."""
    match item:
        case cst.If(
            orelse=None, test=test, body=cst.IndentedBlock(body=[cst.SimpleStatementLine(body=[cst.Continue()])])
        ):
            return test
        case cst.If(orelse=None, test=test, body=cst.SimpleStatementSuite(body=[cst.Continue()])):
            return test
    return None


def outermost(source: Source, loop: cst.For) -> cst.For:
    """The loop itself, or an outer loop that does nothing else: `for group in …: for p in group["params"]:`."""
    child: cst.CSTNode = loop
    best = loop
    for parent in source.ancestors(loop):
        match parent:
            case cst.IndentedBlock(body=body):
                if any(item is not child and _skipped(item) is None for item in body):
                    break
            case cst.If() | cst.Else():
                pass
            case cst.For(asynchronous=None) if child is parent.body:
                best = parent
            case _:
                break
        child = parent
    return best


_LEAVING = (cst.Return, cst.Raise, cst.Yield, cst.Await, cst.NamedExpr, cst.Break)


def leaves(node: cst.CSTNode) -> bool:
    """Whether a loop may end, pause or yield a value here."""
    return isinstance(node, _LEAVING) or (isinstance(node, cst.For) and node.asynchronous is not None)


def statements_beside(
    source: Source, block: cst.BaseSuite, known: Iterable[cst.CSTNode | None]
) -> tuple[cst.CSTNode, ...]:
    """The statements of a block with an effect that are not in `known`; a block without known ones counts as one."""
    return tuple(_beside(source, block, {id(node) for node in known}))


def _beside(source: Source, block: cst.BaseSuite, known: set[int]) -> Iterator[cst.CSTNode]:
    for item in block.body:
        match item:
            case cst.SimpleStatementLine(body=smalls):
                yield from (small for small in smalls if id(small) not in known and not _does_nothing(small))
            case cst.BaseSmallStatement():
                if id(item) not in known and not _does_nothing(item):
                    yield item
            case cst.If() if _skipped(item) is not None:
                pass
            case cst.If() | cst.For() | cst.With() | cst.Try() if _holds(source, item, known):
                yield from _beside(source, item.body, known)
                yield from _beside_in_else(source, item, known)
            case _:
                yield item


def _holds(source: Source, item: cst.CSTNode, known: set[int]) -> bool:
    return any(id(node) in known for node in source.walk(item))


def _beside_in_else(
    source: Source, item: cst.If | cst.For | cst.With | cst.Try, known: set[int]
) -> Iterator[cst.CSTNode]:
    match item:
        case (
            cst.If(orelse=cst.Else(body=body))
            | cst.For(orelse=cst.Else(body=body))
            | cst.Try(orelse=cst.Else(body=body))
        ):
            yield from _beside(source, body, known)
        case cst.If(orelse=cst.If() as other) if _holds(source, other, known):
            yield from _beside(source, other.body, known)
            yield from _beside_in_else(source, other, known)
        case cst.If(orelse=cst.If() as other):
            yield other


def _does_nothing(small: cst.BaseSmallStatement) -> bool:
    """A statement without effect."""
    match small:
        case cst.Pass() | cst.Continue() | cst.Expr(value=cst.SimpleString()):
            return True
    return False
