"""
## What it does
Finds `scaler.unscale_(optimizer)` in every micro-batch although `scaler.step(optimizer)` runs only once for several of
them, and a second call for the same step, such as one before each of two clips, or in a loop over parts of the model.

## Why is this bad?
`unscale_` may run once per optimizer between two calls of `update()`: the second one raises `RuntimeError: unscale_()
has already been called on this optimizer since the last update()`. Where `update()` runs in between, unscaled gradients
and scaled gradients are added together.

## How to fix by hand
Unscale once, right before the clip and the step:

```python
scaler.scale(loss / accumulation_steps).backward()
if (i + 1) % accumulation_steps == 0:
    scaler.unscale_(optimizer)
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad()
```

## Fix safety
Unsafe: moves `unscale_`, and the clip after it, under the accumulation guard. No automatic fix for a second call.

## When to suppress it
Where `update()` runs between the two calls in code that the file does not show.

## References
- microsoft/Swin-Transformer#311, pytorch/pytorch#36601, huggingface/accelerate#641
- https://pytorch.org/docs/stable/notes/amp_examples.html#gradient-accumulation
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import libcst as cst

from clipcheck.fixes.into_guard import into_guard
from clipcheck.python.reaching import contains
from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import Event, Flow, flows
from clipcheck.training.microbatches import guarded_step, loops_around, place_of
from clipcheck.training.optimizers import is_scaler

BY_HAND = "unscale once, right before the clip and the step"
BY_HAND_LOOP = "unscale once, before the loop"
_IN_BETWEEN = (EventKind.BACKWARD, EventKind.STEP, EventKind.UPDATE, EventKind.UNKNOWN)
BY_HAND_ONCE = "unscale once, before the first clip"


def check(source: Source) -> Iterator[Hit]:
    found: dict[cst.CSTNode, Hit] = {}  # what several callers lead to is one finding
    for flow in flows(source, EventKind.UNSCALE):
        for unscale in flow.of(EventKind.UNSCALE):
            for hit in (
                _each_microbatch(source, flow, unscale),
                _twice(source, unscale),
                _in_each_iteration(source, unscale),
            ):
                if hit is not None:
                    found.setdefault(hit.node, hit)
    yield from found.values()


def _each_microbatch(source: Source, flow: Flow, unscale: Event) -> Hit | None:
    step = guarded_step(source, unscale)
    if step is None or step.scaler is None:
        return None
    inside = unscale.at is step.at  # of one function that is called
    node, used = (unscale.node, step.node) if inside else (place_of(unscale), step.at)
    message = f"unscales every micro-batch, but the step on {source.where(used)} runs once for several"
    fix = into_guard(source, flow, unscale, step)
    return Hit(node, message, fix, "" if fix else BY_HAND, ((used, "the step runs here"),))


def _twice(source: Source, unscale: Event) -> Hit | None:
    for first, second in (
        (unscale, _other(source, unscale, unscale.next_where)),
        (_other(source, unscale, unscale.previous_where), unscale),
    ):
        if first is not None and second is not None:
            message = f"raises a RuntimeError: {source.where(first.at)} has already unscaled for this step"
            return Hit(second.at, message, None, BY_HAND_ONCE, ((first.at, "unscaled here"),))
    return None


def _other(source: Source, unscale: Event, nearest: Callable[[Callable[[Event], bool]], list[Event]]) -> Event | None:
    """The `unscale_` of the same optimizer on every path in one direction, with no step or update between the two."""

    def ends(event: Event) -> bool:
        other = event.kind is EventKind.UNSCALE and _names(source, event) == _names(source, unscale)
        return other or event.kind in (EventKind.STEP, EventKind.UPDATE, EventKind.UNKNOWN)

    found = nearest(ends)
    if unscale.scaler is None or not is_scaler(unscale.scaler) or any(e.kind is not EventKind.UNSCALE for e in found):
        return None
    return found[0] if found and found[0].at is not unscale.at else None


def _in_each_iteration(source: Source, unscale: Event) -> Hit | None:
    """An `unscale_` of one optimizer in a `for` loop that does nothing else for the step: `for part in parts: …`."""
    inside = loops_around(source, unscale)
    if not inside or not isinstance(inside[0], cst.For) or unscale.scaler is None or not is_scaler(unscale.scaler):
        return None
    places = (unscale.scaler, unscale.subject)
    names = (node for place in places if place is not None for node in source.walk(place) if isinstance(node, cst.Name))
    bound = any(contains(source, inside[0], one.node) for name in names for one in source.bindings(name))
    again = unscale.next_where(lambda event: event.kind in _IN_BETWEEN or event is unscale)
    leaves = any(isinstance(node, (cst.Break, cst.Return, cst.Continue)) for node in source.walk(inside[0].body))
    if bound or leaves or unscale not in again:
        return None
    message = "raises a RuntimeError in the second iteration: the gradients are already unscaled for this step"
    return Hit(unscale.at, message, None, BY_HAND_LOOP, ((inside[0], "the loop starts here"),))


def _names(source: Source, unscale: Event) -> tuple[str, ...]:
    return tuple("" if node is None else source.spelled(node) for node in (unscale.scaler, unscale.subject))
