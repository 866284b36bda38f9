"""
## What it does
Finds a clip that is called once, before the training loop, when no `backward()` has run yet.

## Why is this bad?
`clip_grad_norm_` does not turn clipping on: it scales the gradients that exist when it is called. Before the loop there
are none, so the call does nothing, and the loop trains without clipping.

## How to fix by hand
Call it in the loop, between `backward()` and `optimizer.step()`, with the `max_norm` that you want.

## Fix safety
No automatic fix: the call moves into the loop, and its `max_norm` (often 0 in such calls) has to be chosen.

## When to suppress it
Where gradients are loaded or set before the loop by code that the file does not show.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html
"""

from __future__ import annotations

from collections.abc import Iterator

from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import Event, flows
from clipcheck.training.guards import loops

BY_HAND = "move it into the loop, between `backward()` and the step"


def check(source: Source) -> Iterator[Hit]:
    for flow in flows(source, EventKind.CLIP):
        for clip in flow.of(EventKind.CLIP):
            backward = _in_later_loop(source, clip)
            if backward is not None:
                message = f"clips nothing: there are no gradients before `backward()` on {source.where(backward.at)}"
                yield Hit(clip.at, message, None, BY_HAND, ((backward.at, "the gradients are computed here"),))


def _in_later_loop(source: Source, clip: Event) -> Event | None:
    earlier = clip.first_before(EventKind.BACKWARD, EventKind.STEP, EventKind.UNKNOWN, EventKind.EDIT)
    if any(event.kind is not EventKind.START for event in earlier):
        return None
    later = clip.first_after(EventKind.BACKWARD, EventKind.STEP, EventKind.UNKNOWN, EventKind.EDIT)
    runs = [event for event in later if event.kind is not EventKind.END]
    if not runs or any(event.kind is not EventKind.BACKWARD for event in runs):
        return None
    outer = loops(source, clip.at)
    deeper = all(_loop_count(source, event) > len(outer) for event in runs)
    return runs[0] if deeper and runs[0].at is not clip.at else None


def _loop_count(source: Source, event: Event) -> int:
    """How many loops run the event: those around the call that leads to it, and around it in the function called."""
    count = len(loops(source, event.at))
    return count + (len(loops(source, event.node)) if event.is_called else 0)
