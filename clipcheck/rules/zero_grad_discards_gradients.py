"""
## What it does
Finds `zero_grad()` between `backward()` and the step that should use the gradients.

## Why is this bad?
The gradients that `backward()` has just computed are thrown away: the optimizer steps without any (only its weight
decay and momentum move the parameters), so nothing is learned.

## Fix safety
Unsafe: moves `zero_grad()` above `backward()`, so that training starts, which is the point.

## References
- lucidrains/byol-pytorch#93, cloneofsimo/lora#263
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from clipcheck.fixes.move import carrier, moved, names_settled
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import Event, Flow, flows

BY_HAND = "clear the gradients before `backward()`, or behind the step"


_CLIPS = re.compile("clip_grad|scaler")  # elsewhere it is nothing that a linter of gradient clipping has to say


def check(source: Source) -> Iterator[Hit]:
    if not _CLIPS.search(source.text):
        return
    for flow in flows(source, EventKind.ZERO_GRAD):
        for zero in flow.of(EventKind.ZERO_GRAD):
            pair = _discarded(source, flow, zero)
            if pair is not None:
                backward, step = pair
                message = f"throws the gradients of {source.where(backward.at)} away before the step on {source.where(step.at)}"
                fix = None if zero.is_called or backward.is_called else _fix(source, zero, backward)
                related = ((backward.at, "the gradients are computed here"), (step.at, "and are missed here"))
                yield Hit(zero.at, message, fix, "" if fix else BY_HAND, related)


def _discarded(source: Source, flow: Flow, zero: Event) -> tuple[Event, Event] | None:
    """The backward whose gradients `zero` clears on every way, and the step of the same optimizer that needs them."""
    if zero.subject is None:
        return None
    kinds = (EventKind.BACKWARD, EventKind.STEP, EventKind.UNKNOWN, EventKind.EDIT)
    earlier, later = zero.first_before(*kinds), zero.first_after(*kinds)
    if any(event.kind is not EventKind.BACKWARD for event in earlier) or any(
        e.kind is not EventKind.STEP for e in later
    ):
        return None
    if not earlier or not later or zero.at in (earlier[0].at, later[0].at):
        return None
    step = later[0]
    if step.subject is None or source.spelled(step.subject) != source.spelled(zero.subject):
        return None  # another optimizer's, or a module that need not be the one that is stepped
    others = {source.spelled(event.subject) for event in flow.of(EventKind.STEP) if event.subject is not None}
    return (earlier[0], step) if len(others) == 1 else None


def _fix(source: Source, zero: Event, backward: Event) -> Fix | None:
    pair = carrier(source, zero.node, backward.node)
    if pair is None or not names_settled(source, pair[0], source.span(pair[1])[0], source.span(pair[0])[0]):
        return None
    edits = moved(source, [pair[0]], pair[1])
    return None if edits is None else Fix("Clear the gradients before `backward()`", Safety.UNSAFE, edits)
