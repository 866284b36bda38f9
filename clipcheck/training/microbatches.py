"""Gradient accumulation: code that runs for every micro-batch although the optimizer steps once in several."""

from __future__ import annotations

from collections.abc import Sequence

import libcst as cst

from clipcheck.python.reaching import contains
from clipcheck.python.source import Source
from clipcheck.training.acts import EventKind
from clipcheck.training.counting import counting_guard, may_be_guarded, tests_around
from clipcheck.training.flows import Event, Flow
from clipcheck.training.guards import Loop, loops

_ENDS = (EventKind.STEP, EventKind.BACKWARD, EventKind.UNKNOWN)
_CHANGES = (EventKind.ZERO_GRAD, EventKind.EDIT)


def guarded_step(source: Source, event: Event) -> Event | None:
    """The step that uses the effect of `event` on several micro-batches; None if there is one step per micro-batch.

    All steps that can follow are under a test that counts steps, `event` is not, and if the test fails, another
    backward adds to the same gradients. Or the step comes after a loop over the micro-batches.
    """
    found = _guarded_step(source, event, EventKind.ZERO_GRAD)
    if found is None and event.kind is EventKind.UNSCALE:
        # `unscale_` is recorded until the scale is updated, not until the gradients are cleared
        found = _guarded_step(source, event, EventKind.UPDATE)
    return found or _step_after_loop(source, event)


def _guarded_step(source: Source, event: Event, forgets: EventKind) -> Event | None:
    if _is_guarded_alone(source, event):
        return None
    inside = loops_around(source, event)
    steps = _steps_after(event, inside[0] if inside else None, forgets)
    if not _adds_to_one_backward(source, event, inside, forgets):
        return None
    if not all(comes_once_in_several(source, step, event) for step in steps):
        return None
    return steps[0] if steps else None


def _is_guarded_alone(source: Source, event: Event) -> bool:
    """Whether a test that may count is around an event; one that is around each backward as well decides nothing."""
    near = [*event.first_before(EventKind.BACKWARD), *event.first_after(EventKind.BACKWARD)]
    first = (other for start in event.first_before(EventKind.START) for other in start.first_after(EventKind.BACKWARD))
    backward = (other for other in (*near, *first) if other.kind is EventKind.BACKWARD)
    shared = [set(tests_around(source, other)) for other in backward]
    return may_be_guarded(source, event, frozenset(set.intersection(*shared) if shared else ()))


def comes_once_in_several(source: Source, step: Event, event: Event) -> bool:
    """Whether a counting test decides whether a step happens, in the innermost loop around `event`."""
    if loops_around(source, step) != loops_around(source, event):
        return False
    return counting_guard(source, step) is not None


def _step_after_loop(source: Source, event: Event) -> Event | None:
    """The step after a `for` loop whose iterations all add to the same gradients, and all do what `event` does."""
    inside = loops_around(source, event)
    if not inside or not isinstance(inside[0], cst.For) or may_be_guarded(source, event):
        return None
    if _may_turn_once(source, event, inside[0]) or _is_of_iteration(source, event, inside[0]):
        return None
    earlier = event.first_before(*_ENDS, *_CHANGES)
    later = event.first_after(*_ENDS, *_CHANGES)
    again = [other for other in later if other.kind is EventKind.BACKWARD]
    steps = [other for other in later if other.kind is EventKind.STEP]
    if not again or not steps or len(again) + len(steps) < len(later):
        return None
    adds = all(other.kind is EventKind.BACKWARD and loops_around(source, other) == inside for other in earlier + again)
    return steps[0] if adds and all(loops_around(source, step) == inside[1:] for step in steps) else None


def _may_turn_once(source: Source, event: Event, loop: Loop) -> bool:
    """Whether a loop may only try again what has failed."""
    around = (
        above for place in event.places for above in source.ancestors(place) if contains(source, loop.body, above)
    )
    return any(isinstance(above, (cst.Try, cst.TryStar)) for above in around)


def _is_of_iteration(source: Source, event: Event, loop: Loop) -> bool:
    """Whether each iteration may act upon parameters of its own, as in `for net in nets: …`."""
    names = (node for node in source.walk(event.subject) if isinstance(node, cst.Name)) if event.subject else ()
    return event.subject is None or any(
        contains(source, loop, binding.node) for name in names for binding in source.bindings(name)
    )


def loops_around(source: Source, event: Event) -> list[Loop]:
    """The loops around an event, innermost first, including those around the calls that lead to it."""
    return [loop for place in event.places for loop in loops(source, place)]


def _steps_after(event: Event, loop: Loop | None, forgets: EventKind) -> list[Event]:
    """The steps that can follow, if each other path from here leads to the next backward, or out of the function."""
    later = event.first_after(*_ENDS, forgets)
    rest = {other.kind for other in later} - {EventKind.STEP}
    # the micro-batch after this one comes from the loop around, or else from the next call
    following = EventKind.END if loop is None else EventKind.BACKWARD
    if following not in rest or not rest <= {EventKind.BACKWARD, EventKind.END}:
        return []
    return [other for other in later if other.kind is EventKind.STEP]


def _adds_to_one_backward(source: Source, event: Event, inside: list[Loop], forgets: EventKind) -> bool:
    """Whether only a backward of the same micro-batch can come before, or several of them in a loop of their own."""
    ends = (*_ENDS, forgets)
    earlier = event.previous_where(lambda other: other.kind in ends or _repeats_backward(source, other, inside, ends))
    return all(
        other.kind is EventKind.LOOP or (other.kind is EventKind.BACKWARD and loops_around(source, other) == inside)
        for other in earlier
    )


def _repeats_backward(source: Source, head: Event, inside: list[Loop], ends: Sequence[EventKind]) -> bool:
    """Whether an event is the start of a loop, next to the micro-batch's other statements, that only runs backward."""
    if head.kind is not EventKind.LOOP or loops_around(source, head) != inside:
        return False
    last = [other for other in head.first_before(*ends) if head.node in loops_around(source, other)]
    return bool(last) and all(other.kind is EventKind.BACKWARD for other in last)


def step_elsewhere(source: Source, flow: Flow, event: Event) -> Event | None:
    """The step in the other branch of the test that counts micro-batches; `event` is in the branch that accumulates."""
    if not leads_to_backward(event):
        return None
    mine = {(id(test.branch), test.outcome) for test in tests_around(source, event)}
    for step in flow.of(EventKind.STEP):
        guard = counting_guard(source, step)
        if guard is not None and (id(guard.branch), not guard.outcome) in mine:
            return step
    return None


def leads_to_backward(event: Event) -> bool:
    """Whether another backward follows, to add to the same gradients, before anything uses them."""
    later = {other.kind for other in event.first_after(*_ENDS, EventKind.ZERO_GRAD, EventKind.EDIT)}
    return EventKind.BACKWARD in later and later <= {EventKind.BACKWARD, EventKind.END}


def place_of(event: Event) -> cst.CSTNode:
    """Where to report what runs for every micro-batch: the act itself, where its function runs `backward()` as well; else
    the call that brings it to the micro-batch.
    """
    earlier = event.first_before(EventKind.BACKWARD)
    beside = any(other.kind is EventKind.BACKWARD and other.frame is event.frame for other in earlier)
    return event.node if beside else event.at
