"""Gradient accumulation: what runs for every micro-batch although the optimizer steps once in several."""

from __future__ import annotations

import libcst as cst

from clipcheck.fixes.move import moved, names_settled, stands_alone
from clipcheck.python.source import Source, Statement
from clipcheck.rule import Fix, Safety
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import Event, Flow
from clipcheck.training.guards import accumulation_guard, loops

TITLE = "Move under the accumulation guard, above the step"


def guarded_step(source: Source, event: Event) -> Event | None:
    """The step that uses what `event` did to each of several micro-batches, None where they go one to one.

    All steps that can follow stand under a test that counts steps, `event` does not, and where the test fails another
    backward adds to the same gradients.
    """
    inside = loops(source, event.at)
    innermost = inside[0] if inside else None
    if accumulation_guard(source, event.at, innermost) is not None:
        return None
    later = event.first_after(EventKind.STEP, EventKind.BACKWARD, EventKind.ZERO_GRAD, EventKind.UNKNOWN)
    steps = [other for other in later if other.kind is EventKind.STEP]
    rest = {other.kind for other in later} - {EventKind.STEP}
    if (
        not steps
        or not rest <= {EventKind.BACKWARD, EventKind.END}
        or (innermost is not None and EventKind.BACKWARD not in rest)
    ):
        return None
    if innermost is None and EventKind.END not in rest:
        return None
    earlier = event.first_before(EventKind.BACKWARD, EventKind.STEP, EventKind.ZERO_GRAD, EventKind.UNKNOWN)
    if any(other.kind is not EventKind.BACKWARD or loops(source, other.at) != inside for other in earlier):
        return None
    if any(other.at is event.at or accumulation_guard(source, other.at, innermost) is None for other in steps):
        return None
    return steps[0]


def into_guard(source: Source, flow: Flow, event: Event, step: Event) -> Fix | None:
    """Move the statements that prepare the gradients (unscale, clip) from before the guard to right above the step.

    Several findings in one block get the same fix: moved apart, a clip would come to stand before its unscale.
    """
    if event.is_called or step.is_called:
        return None
    guard = accumulation_guard(source, step.node)
    target = _first_use(source, flow, guard) if guard is not None else None
    if guard is None or target is None or not stands_alone(source, target):
        return None
    block = source.siblings(guard)[0]
    carried: list[Statement] = []
    for other in flow.of(EventKind.UNSCALE, EventKind.CLIP):
        if other.is_called or guarded_step(source, other) is not step:
            continue
        statement = _in_block(source, other.node, block)
        if statement is None:
            return None
        if statement not in carried:
            carried.append(statement)
    start = source.span(guard)[0]
    for statement in carried:
        if not names_settled(source, statement, source.span(statement)[1], source.span(target)[0]):
            return None
        if _is_read_elsewhere(source, statement, guard):
            return None
        if source.span(statement)[0] > start:
            return None
    edits = moved(source, carried, target) if carried else None
    return None if edits is None else Fix(TITLE, Safety.UNSAFE, edits)


def _first_use(source: Source, flow: Flow, guard: cst.If) -> Statement | None:
    """The first statement of the guard's body that clips or steps."""
    for statement in guard.body.body if isinstance(guard.body, cst.IndentedBlock) else ():
        inside = {id(node) for node in source.walk(statement)}
        if any(id(event.at) in inside for event in flow.of(EventKind.CLIP, EventKind.STEP)):
            return source.statement(statement)
    return None


def _in_block(source: Source, node: cst.CSTNode, block: list[Statement]) -> Statement | None:
    """The statement of `block` that does nothing but `node`: the line itself, or an `if` around that line alone."""
    statement: cst.CSTNode = source.statement(node)
    if not isinstance(statement, cst.SimpleStatementLine) or not stands_alone(source, statement):
        return None
    while not any(statement is other for other in block):
        parent = source.parent(source.parent(statement) or statement)
        if not isinstance(parent, cst.If) or parent.orelse is not None or len(source.siblings(statement)[0]) != 1:
            return None
        statement = parent
    return next(other for other in block if other is statement)


def _is_read_elsewhere(source: Source, statement: Statement, guard: cst.If) -> bool:
    """Whether a name that the statement binds is read outside of the guard's body, where it might then be unbound."""
    start, stop = source.span(guard.body)
    bound = [
        node
        for node in source.walk(statement)
        if isinstance(node, cst.Name)
        and any(binding.node is node for binding in source.scope(node).bindings.get(node.value, []))
    ]
    uses = (use for node in bound for use in source.names.uses(source.scope(node), node.value))
    return any(not start <= source.span(use)[0] < stop for use in uses)
