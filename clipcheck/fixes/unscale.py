"""Adds the `scaler.unscale_(optimizer)` of a step, above everything that reads the gradients: a second call raises."""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.move import stands_alone
from clipcheck.fixes.verbs import insert_line_before
from clipcheck.python.reaching import contains
from clipcheck.python.source import Source
from clipcheck.rule import Edit
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import Event
from clipcheck.training.measures import shown
from clipcheck.training.microbatches import guarded_step
from clipcheck.training.scalers import is_compensated

_ENDS = (
    *(EventKind.BACKWARD, EventKind.UNSCALE, EventKind.EDIT, EventKind.UNKNOWN),
    *(EventKind.STEP, EventKind.UPDATE, EventKind.ZERO_GRAD),
)
_READERS = (EventKind.CLIP, EventKind.MEASURE)


def unscaled_above(source: Source, event: Event, step: Event) -> Edit | None:
    """Adds the line above the first clip or norm of the gradients that `event` reads and the scaler's `step` uses.

    All readers get the same line, so that their fixes share it. There is no fix if a branch decides which reader comes
    first, or if only some of the clips are in the branch. The line is outside any loop that the step is outside of.
    """
    first = _first_reader(source, event)
    if first is None or step.subject is None or step.scaler is None:
        return None
    if not step.facts <= first.facts:
        return None  # if only some paths are scaled, `unscale_` must be under the same test
    if any(_first_reader(source, clip) is not first for clip in _later_clips(first)):
        return None
    statement = source.statement(_outside_loops(source, shown(source, first.at, first.node), step.at))
    if not stands_alone(source, statement):
        return None
    line = f"{source.outer_code(step.scaler)}.unscale_({source.code(step.subject)})"
    return insert_line_before(source, statement, line)


def _first_reader(source: Source, event: Event) -> Event | None:
    """The first reader of the gradients, if the readers up to `event` follow each other."""
    first, seen = event, {event}
    while True:
        earlier = [one for one in first.first_before(*_READERS, *_ENDS) if one is not first]
        readers = [one for one in earlier if _reads(source, one)]
        if not readers:
            return first
        if len(readers) > 1 or readers[0] in seen:
            return None
        if len(earlier) > 1 and _outside_loops(source, readers[0].at, first.at) is readers[0].at:
            return None  # it is in a branch; a loop may be skipped as well, but then there is nothing to read
        first = readers[0]
        seen.add(first)


def _reads(source: Source, event: Event) -> bool:
    """Whether an event is a clip, or a norm that is not divided by the scale, and occurs once per step."""
    if guarded_step(source, event) is not None:
        return False  # in each micro-batch, where nothing can be unscaled yet
    if event.kind is EventKind.MEASURE:
        return not is_compensated(source, shown(source, event.at, event.node))
    return event.kind is EventKind.CLIP


def _later_clips(first: Event) -> Iterator[Event]:
    pending, seen = [first], {first}
    while pending:
        for event in pending.pop().first_after(*_READERS, *_ENDS):
            if event.kind in _READERS and event not in seen:
                seen.add(event)
                pending.append(event)
                if event.kind is EventKind.CLIP:
                    yield event


def _outside_loops(source: Source, node: cst.CSTNode, other: cst.CSTNode) -> cst.CSTNode:
    """A node, or the outermost loop around it that does not contain another one."""
    for above in source.ancestors(node):
        if isinstance(above, (cst.For, cst.While)) and not contains(source, above, other):
            node = above
    return node
