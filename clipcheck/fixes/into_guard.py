"""Moves unscaling and clipping from every micro-batch into the accumulation guard, above the step."""

from __future__ import annotations

import libcst as cst

from clipcheck.fixes.move import binds, moved, names_settled, stands_alone
from clipcheck.python.reaching import contains
from clipcheck.python.source import Source, Statement
from clipcheck.rule import Fix, Safety
from clipcheck.training.acts import EventKind
from clipcheck.training.counting import counting_guard
from clipcheck.training.flows import Event, Flow
from clipcheck.training.guards import branches
from clipcheck.training.microbatches import guarded_step

TITLE = "Move into the accumulation guard, above the step"


def into_guard(source: Source, flow: Flow, event: Event, step: Event) -> Fix | None:
    """Moves the statements that prepare the gradients for a guarded step from before the guard to right above the step.

    Several findings in one block get the same fix: moved separately, a clip would end up before its unscale.
    """
    if event.is_called or step.is_called:
        return None
    guard = _guard_around(source, step)
    target = _first_use(source, flow, guard) if guard is not None else None
    if guard is None or target is None or not stands_alone(source, target):
        return None
    carried = _prepares(source, flow, step, guard)
    if not carried or not all(_may_move(source, statement, guard, target) for statement in carried):
        return None
    edits = moved(source, carried, target)
    return None if edits is None else Fix(TITLE, Safety.UNSAFE, edits)


def _guard_around(source: Source, step: Event) -> cst.If | None:
    """The `if` that counts micro-batches and whose body contains the step."""
    test = counting_guard(source, step)
    return test.branch if test is not None and (test.branch, True) in branches(source, step.node) else None


def _prepares(source: Source, flow: Flow, step: Event, guard: cst.If) -> list[Statement] | None:
    """The statements next to the guard that unscale or clip for this step; None if one cannot be moved by itself."""
    block = source.siblings(guard)[0]
    carried: list[Statement] = []
    for event in flow.of(EventKind.UNSCALE, EventKind.CLIP):
        follows = not contains(source, guard, event.node) and _clips_unscaled(source, event, carried)
        if event.is_called or (guarded_step(source, event) is not step and not follows):
            continue
        statement = _in_block(source, event.node, block)
        if statement is None:
            return None
        if statement not in carried:
            carried.append(statement)
    return carried


def _clips_unscaled(source: Source, event: Event, carried: list[Statement]) -> bool:
    """Whether a clip that stays follows an `unscale_` that moves away, and would then clip scaled gradients."""
    unscaled = {id(other.node) for other in event.first_before(EventKind.UNSCALE, EventKind.BACKWARD)}
    return event.kind is EventKind.CLIP and any(
        id(node) in unscaled for statement in carried for node in source.walk(statement)
    )


def _may_move(source: Source, statement: Statement, guard: cst.If, target: Statement) -> bool:
    """Whether a statement is before the guard, means the same above `target`, and is not needed where it is."""
    start, end = source.span(statement)
    if start > source.span(guard)[0] or not names_settled(source, statement, end, source.span(target)[0]):
        return False
    return not _is_read_outside(source, statement, guard)


def _first_use(source: Source, flow: Flow, guard: cst.If) -> Statement | None:
    """The first statement of the guard's body that clips or steps."""
    for statement in guard.body.body if isinstance(guard.body, cst.IndentedBlock) else ():
        inside = {id(node) for node in source.walk(statement)}
        if any(id(event.at) in inside for event in flow.of(EventKind.CLIP, EventKind.STEP)):
            return source.statement(statement)
    return None


def _in_block(source: Source, node: cst.CSTNode, block: list[Statement]) -> Statement | None:
    """The statement of `block` that contains nothing but `node`: its line, or an `if` around only that line."""
    statement: cst.CSTNode = source.statement(node)
    if not isinstance(statement, cst.SimpleStatementLine) or not stands_alone(source, statement):
        return None
    while not any(statement is other for other in block):
        _, parent, *_ = (*source.ancestors(statement), None)
        if not isinstance(parent, cst.If) or parent.orelse is not None or len(source.siblings(statement)[0]) != 1:
            return None
        statement = parent
    return next(other for other in block if other is statement)


def _is_read_outside(source: Source, statement: Statement, guard: cst.If) -> bool:
    """Whether a name that the statement binds is read outside the guard's body, where it could then be unbound."""
    bound = (node for node in source.walk(statement) if isinstance(node, cst.Name) and binds(source, node))
    uses = (use for name in bound for use in source.names.uses(source.scope(name), name.value))
    return any(not contains(source, guard.body, use) for use in uses)
