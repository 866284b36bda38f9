"""
## What it does
Finds clips outside of the closure that `optimizer.step(closure)` calls, where the closure runs `backward()` and does
not clip.

## Why is this bad?
The optimizer calls the closure, which computes the gradients anew, as often as it likes. What was clipped outside is
overwritten: with LBFGS the optimizer sees a gradient of norm 206.0 where 1.0 was asked for.

## Fix safety
No fix: clip inside of the closure, behind `backward()`.

## References
- https://pytorch.org/docs/stable/optim.html#optimizer-step-closure
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import Event, Flow, flows

BY_HAND = "clip inside of the closure, behind `backward()`"


def check(source: Source) -> Iterator[Hit]:
    for flow in flows(source, EventKind.CLIP):
        for clip in flow.of(EventKind.CLIP):
            step = _recomputing_step(source, flow, clip)
            if step is not None:
                message = (
                    f"clips outside of the closure: the step on {source.where(step.at)} computes the gradients anew"
                )
                yield Hit(clip.at, message, None, BY_HAND, ((step.at, "the closure is called here"),))


def _recomputing_step(source: Source, flow: Flow, clip: Event) -> Event | None:
    """The `step(closure)` behind `clip` whose closure runs backward and has no clip of its own."""
    later = clip.first_after(EventKind.STEP, EventKind.UNKNOWN, EventKind.BACKWARD)
    inside = {event.at for event in flow.of(EventKind.BACKWARD) if event.is_called}
    for event in later:
        if event.kind is not EventKind.BACKWARD or event.at not in inside or not _steps_with_closure(event.at):
            return None
    if not later or any(other.at is later[0].at for other in flow.of(EventKind.CLIP)):
        return None
    return next((step for step in flow.of(EventKind.STEP) if step.at is later[0].at), None)


def _steps_with_closure(node: cst.CSTNode) -> bool:
    match node:
        case cst.Call(func=cst.Attribute(attr=cst.Name("step")), args=[_, *_]):
            return True
    return False
