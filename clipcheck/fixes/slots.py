"""An accumulator that is an element or an attribute: the zero before its loop, and the root after it."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from clipcheck.fixes.accumulators import Ending
from clipcheck.gradients.accumulations import Accumulation
from clipcheck.gradients.roots import Root, root_of
from clipcheck.python.literals import is_zero
from clipcheck.python.source import Source, Statement


def slot_of(source: Source, one: Accumulation) -> tuple[Statement, Ending] | None:
    """The statement that sets `norms[key]` to zero, and the root in the statement after the loop.

    Other readers of an element or an attribute are unknown, so both statements must be next to the loop, and nothing in
    between may refer to the object.
    """
    if not isinstance(one.target, (cst.Subscript, cst.Attribute)):
        return None
    siblings, index = source.siblings(one.loop)
    zero = _zero_in(source, one.target, siblings[:index])
    after = siblings[index + 1] if index + 1 < len(siblings) else None
    root = _root_in(source, one, after) if after is not None else None
    if zero is None or root is None or after is None:
        return None
    return zero, Ending(f"{source.code(one.target)} = ", root.kind, root.numpy, gone=(after,))


def _zero_in(source: Source, slot: cst.BaseExpression, before: Sequence[Statement]) -> Statement | None:
    names = {node.value for node in source.walk(slot) if isinstance(node, cst.Name)}
    base = _base(slot)
    for statement in reversed(before):
        match statement:
            case cst.SimpleStatementLine(
                body=[cst.Assign(targets=[cst.AssignTarget(target=target)], value=cst.Integer() | cst.Float() as value)]
            ) if source.spelled(target) == source.spelled(slot):
                return statement if is_zero(source, value) else None
            case cst.SimpleStatementLine(body=[cst.Assign(targets=[cst.AssignTarget(target=cst.Name(value=bound))])]):
                read = {node.value for node in source.walk(statement) if isinstance(node, cst.Name)}
                if bound in names or base in read:
                    return None
            case _:
                return None
    return None


def _base(slot: cst.BaseExpression) -> str:
    while isinstance(slot, (cst.Subscript, cst.Attribute)):
        slot = slot.value
    return slot.value if isinstance(slot, cst.Name) else ""


def _root_in(source: Source, one: Accumulation, statement: Statement) -> Root | None:
    """The root of the accumulator in a statement that only assigns it back to the accumulator."""
    spelled = source.spelled(one.target)
    match statement:
        case cst.SimpleStatementLine(body=[cst.Assign(targets=[cst.AssignTarget(target=target)], value=value)]) if (
            source.spelled(target) == spelled
        ):
            uses = [n for n in source.walk(value) if isinstance(n, type(one.target)) and source.spelled(n) == spelled]
            root = root_of(source, uses[0], one.term) if len(uses) == 1 else None
            return root if root is not None and root.node is value else None
        case cst.SimpleStatementLine(body=[cst.AugAssign(target=target)]) if source.spelled(target) == spelled:
            return root_of(source, target, one.term)
    return None
