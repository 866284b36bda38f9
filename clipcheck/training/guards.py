"""The loops around a node in its function, and the tests that decide whether it runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import libcst as cst

from clipcheck.python.names import dotted
from clipcheck.python.nodes import children
from clipcheck.python.reaching import contains
from clipcheck.python.source import Source

Loop: TypeAlias = "cst.For | cst.While"


def loops(source: Source, node: cst.CSTNode) -> list[Loop]:
    """The loops around `node` in its function, innermost first; the header of a loop is outside it."""
    found: list[Loop] = []
    inner = node
    for above in source.ancestors(node):
        match above:
            case cst.For() | cst.While() if inner is above.body:
                found.append(above)
            case cst.FunctionDef() | cst.Lambda() | cst.ClassDef():
                break
        inner = above
    return found


def branches(source: Source, node: cst.CSTNode) -> Iterator[tuple[cst.If, bool]]:
    """The `if` statements around `node` in its function, innermost first, each with the outcome that leads there."""
    inner = node
    for above in source.ancestors(node):
        match above:
            case cst.If() if inner is above.body:
                yield above, True
            case cst.If() if inner is above.orelse:
                yield above, False
            case cst.FunctionDef() | cst.Lambda() | cst.ClassDef():
                return
        inner = above


def conditions(source: Source, node: cst.CSTNode) -> Iterator[tuple[cst.If, bool]]:
    """The tests that decide whether `node` runs, innermost first: those around it, and early exits before it.

    `if (i + 1) % n: continue` controls what follows it just like `if (i + 1) % n == 0:`.
    """
    inner = node
    for above in source.ancestors(node):
        match above:
            case cst.If() if inner is above.body:
                yield above, True
            case cst.If() if inner is above.orelse:
                yield above, False
            case cst.IndentedBlock(body=body) | cst.Module(body=body):
                yield from _left_before(body, inner)
            case cst.FunctionDef() | cst.Lambda() | cst.ClassDef():
                return
        inner = above


def _left_before(body: Sequence[cst.CSTNode], until: cst.CSTNode) -> Iterator[tuple[cst.If, bool]]:
    """The `if` statements before a statement in its block of which one branch never reaches its end."""
    for statement in body:
        if statement is until:
            return
        match statement:
            case cst.If(body=taken, orelse=None) if _ends_in_jump(taken):
                yield statement, False
            case cst.If(body=taken, orelse=cst.Else(body=other)) if _ends_in_jump(taken) != _ends_in_jump(other):
                yield statement, _ends_in_jump(other)


def _ends_in_jump(part: cst.CSTNode | None) -> bool:
    match part.body if isinstance(part, cst.Else) else part:
        case cst.IndentedBlock(body=[*_, cst.SimpleStatementLine(body=[*_, last])]):
            return isinstance(last, (cst.Return, cst.Raise, cst.Continue))
        case cst.SimpleStatementSuite(body=[*_, last]):
            return isinstance(last, (cst.Return, cst.Raise, cst.Continue))
    return False


def is_on_cpu(source: Source, node: cst.CSTNode) -> bool:
    """Whether `node` runs only for tensors in the CPU's memory, by a test such as `p.is_cuda` or `p.device.type == "cpu"`."""
    return any(_says_cpu(branch.test, outcome) for branch, outcome in conditions(source, node))


def _says_cpu(test: cst.BaseExpression, outcome: bool) -> bool:
    match test:
        case cst.UnaryOperation(operator=cst.Not(), expression=inner):
            return _says_cpu(inner, not outcome)
        case cst.BooleanOperation(left=left, operator=operator, right=right) if (
            isinstance(operator, cst.And) is outcome
        ):
            return _says_cpu(left, outcome) or _says_cpu(right, outcome)
        case cst.Attribute(attr=cst.Name(value="is_cuda" | "is_cpu" as name)):
            return outcome == (name == "is_cpu")
        case cst.Comparison(
            left=cst.Attribute(value=cst.Attribute(attr=cst.Name("device")), attr=cst.Name("type")),
            comparisons=[cst.ComparisonTarget(operator=operator, comparator=cst.SimpleString() as name)],
        ):
            return name.evaluated_value == "cpu" and isinstance(operator, cst.Equal if outcome else cst.NotEqual)
    return False


def is_conditional(source: Source, node: cst.CSTNode) -> bool:
    """Whether `node` runs only under a condition in its statement, or in an error handler."""
    inner = node
    for above in source.ancestors(node):
        match above:
            case cst.IfExp() if inner is not above.test:
                return True
            case cst.BooleanOperation() if inner is above.right:
                return True
            case cst.ExceptHandler() | cst.ExceptStarHandler() | cst.MatchCase():
                return True
            case cst.FunctionDef() | cst.Lambda() | cst.ClassDef():
                return False
        inner = above
    return False


def exclusive(source: Source, one: cst.CSTNode, other: cst.CSTNode) -> bool:
    """Whether no path leads from `one` to `other`: different branches of an `if`, or the branch of `one` exits."""
    mine = {id(branch): outcome for branch, outcome in branches(source, one)}
    if any(mine.get(id(branch), outcome) != outcome for branch, outcome in branches(source, other)):
        return True
    return _leaves_before(source, one, other)


def _leaves_before(source: Source, one: cst.CSTNode, other: cst.CSTNode) -> bool:
    """Whether a branch around `one` ends with a jump, so that `other`, outside it, is not reached from there."""
    for branch, outcome in branches(source, one):
        part = branch.body if outcome else branch.orelse
        if part is None or contains(source, part, other):
            return False
        if _ends_in_jump(part):
            return True
    return False


def asked_for(source: Source, node: cst.CSTNode) -> frozenset[str]:
    """What an expression reads, by last name: `amp` in `if self.config.amp:`, not the objects on the way to it."""
    found: set[str] = set()
    pending = [node]
    while pending:
        match pending.pop():
            case cst.Name(value=name) | cst.Attribute(value=cst.Name(), attr=cst.Name(value=name)):
                found.add(name)
            case cst.Attribute(value=inner, attr=cst.Name(value=name)):
                found.add(name)
                pending += [] if dotted(inner) else [inner]
            case cst.Arg(value=inner):
                pending.append(inner)
            case other:
                pending += children(other)
    return frozenset(found)


def expects_error(source: Source, node: cst.CSTNode) -> bool:
    """Whether a test expects `node` to fail: `with pytest.raises(…):`."""
    return any(
        isinstance(above, cst.With) and any("aises" in source.code(item.item) for item in above.items)
        for above in source.ancestors(node)
    )
