"""Gradient accumulation: what runs for every micro-batch although the optimizer steps once in several."""

from __future__ import annotations

from clipcheck.python.source import Source
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import Event
from clipcheck.training.guards import Loop, accumulation_guard, loops


def guarded_step(source: Source, event: Event) -> Event | None:
    """The step that uses what `event` did to each of several micro-batches, None where they go one to one.

    All steps that can follow stand under a test that counts steps, `event` does not, and where the test fails another
    backward adds to the same gradients.
    """
    inside = loops(source, event.at)
    innermost = inside[0] if inside else None
    if accumulation_guard(source, event.at, innermost) is not None:
        return None
    steps = _steps_after(event, innermost)
    if not _adds_to_one_backward(source, event, inside):
        return None
    if any(step.at is event.at or accumulation_guard(source, step.at, innermost) is None for step in steps):
        return None
    return steps[0] if steps else None


def _steps_after(event: Event, loop: Loop | None) -> list[Event]:
    """The steps that can follow, if each other way from here leads to the next backward, or out of the function."""
    later = event.first_after(EventKind.STEP, EventKind.BACKWARD, EventKind.ZERO_GRAD, EventKind.UNKNOWN)
    rest = {other.kind for other in later} - {EventKind.STEP}
    # the micro-batch after this one comes from the loop around, or else from the next call
    following = EventKind.END if loop is None else EventKind.BACKWARD
    if following not in rest or not rest <= {EventKind.BACKWARD, EventKind.END}:
        return []
    return [other for other in later if other.kind is EventKind.STEP]


def _adds_to_one_backward(source: Source, event: Event, inside: list[Loop]) -> bool:
    """Whether all that can come before is a backward of the same micro-batch."""
    earlier = event.first_before(EventKind.BACKWARD, EventKind.STEP, EventKind.ZERO_GRAD, EventKind.UNKNOWN)
    return all(other.kind is EventKind.BACKWARD and loops(source, other.at) == inside for other in earlier)
