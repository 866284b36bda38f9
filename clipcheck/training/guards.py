"""What stands around a place in its function: the loops, the tests that decide on it, the guard that counts micro-batches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeAlias

import libcst as cst

from clipcheck.python.reaching import contains
from clipcheck.python.source import Source
from clipcheck.python.words import words

Loop: TypeAlias = "cst.For | cst.While"


def loops(source: Source, node: cst.CSTNode) -> list[Loop]:
    """The loops around `node` in its function, innermost first; a loop's own header is outside of it."""
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
    """The `if` statements around `node` in its function, innermost first, and whether it stands under the test's truth."""
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


def exclusive(source: Source, one: cst.CSTNode, other: cst.CSTNode) -> bool:
    """Whether no run comes from `one` to `other`: in different branches of an `if`, or `one`'s branch leaves before it."""
    mine = {id(branch): outcome for branch, outcome in branches(source, one)}
    if any(mine.get(id(branch), outcome) != outcome for branch, outcome in branches(source, other)):
        return True
    return _leaves_before(source, one, other)


def _leaves_before(source: Source, one: cst.CSTNode, other: cst.CSTNode) -> bool:
    """Whether a branch around `one` ends with a jump, so that `other`, outside of it, is not reached from there."""
    for branch, outcome in branches(source, one):
        part = branch.body if outcome else branch.orelse
        if part is None or contains(source, part, other):
            return False
        match part.body if isinstance(part, cst.Else) else part:
            case cst.IndentedBlock(
                body=[*_, cst.SimpleStatementLine(body=[*_, cst.Return() | cst.Raise() | cst.Continue()])]
            ):
                return True
    return False


def accumulation_guard(source: Source, node: cst.CSTNode, within: Loop | None = None) -> cst.If | None:
    """The `if (i + 1) % n == 0:` around `node`: a test that is true once in several micro-batches.

    Only guards inside of the loop `within` count, where one is given.
    """
    for test, outcome in branches(source, node):
        inside = within is None or within in loops(source, test)
        if outcome and inside and counts_steps(source, test.test):
            return test
    return None


def counts_steps(source: Source, test: cst.CSTNode, depth: int = 2) -> bool:
    """Whether a test counts micro-batches: by a remainder, or by a name that speaks of accumulation."""
    for node in source.walk(test):
        match node:
            case cst.BinaryOperation(operator=cst.Modulo(), left=left) if not isinstance(left, cst.SimpleString):
                return True
            case cst.Name(value=name) if _speaks_of_accumulation(name):
                return True
            case cst.Name() if depth:
                values = [b.value for b in source.bindings(node) if b.kind == "assign" and b.value is not None]
                if any(not isinstance(v, cst.Call) and counts_steps(source, v, depth - 1) for v in values):
                    return True
    return False


def _speaks_of_accumulation(name: str) -> bool:
    parts = words(name)
    return any(part.startswith("accum") for part in parts) or parts in (("sync", "gradients"), ("sync", "grads"))


def expects_error(source: Source, node: cst.CSTNode) -> bool:
    """Whether a test wants to see `node` fail: `with pytest.raises(…):`."""
    return any(
        isinstance(above, cst.With) and any("aises" in source.code(item.item) for item in above.items)
        for above in source.ancestors(node)
    )
