"""
## What it does
Finds clips outside the closure that `optimizer.step(closure)` calls, where the closure runs `backward()` and does not
clip.

## Why is this bad?
The optimizer calls the closure, once or many times, and each call computes the gradients again. The clipped ones are
overwritten: with LBFGS the optimizer gets a gradient of norm 206.0 where `max_norm` is 1.0.

## How to fix by hand
Clip inside the closure, after `backward()`:

```python
def closure():
    optimizer.zero_grad()
    loss = loss_of(model, batch)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    return loss
```

## Fix safety
No automatic fix: the closure may be defined anywhere, and be used by other steps.

## When to suppress it
Where the optimizer does not call its closure, or the closure does not compute gradients for these parameters.

## References
- https://pytorch.org/docs/stable/optim.html#optimizer-step-closure
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.acts import EventKind
from clipcheck.training.clips import only_measures
from clipcheck.training.flows import Event, Flow, flows

BY_HAND = "clip inside the closure, after `backward()`"


def check(source: Source) -> Iterator[Hit]:
    for flow in flows(source, EventKind.CLIP):
        for clip in flow.of(EventKind.CLIP):
            step = _recomputing_step(source, flow, clip)
            if step is not None:
                message = (
                    f"has no effect: the closure called by the step on {source.where(step.at)} recomputes the gradients"
                )
                yield Hit(clip.at, message, None, BY_HAND, ((step.at, "the closure is called here"),))


def _recomputing_step(source: Source, flow: Flow, clip: Event) -> Event | None:
    """The `step(closure)` after `clip` whose closure runs backward and does not clip."""
    later = clip.first_after(EventKind.STEP, EventKind.UNKNOWN, EventKind.BACKWARD)
    inside = {event.at for event in flow.of(EventKind.BACKWARD) if event.is_called}
    for event in later:
        if event.kind is not EventKind.BACKWARD or event.at not in inside or not _steps_with_closure(event.at):
            return None
    clips = (other for other in flow.of(EventKind.CLIP) if not only_measures(source, other.node))
    if not later or any(other.at is later[0].at for other in clips):
        return None
    return next((step for step in flow.of(EventKind.STEP) if step.at is later[0].at), None)


def _steps_with_closure(node: cst.CSTNode) -> bool:
    match node:
        case cst.Call(func=cst.Attribute(attr=cst.Name("step")), args=[_, *_]):
            return True
    return False
