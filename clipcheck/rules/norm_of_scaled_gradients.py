"""
## What it does
Finds a gradient norm that is measured while a loss scaler still multiplies the gradients: after
`scaler.scale(loss).backward()`, with no `scaler.unscale_(optimizer)` before it; or after `accelerator.backward(loss)`
where the file sets `mixed_precision="fp16"`.

## Why is this bad?
The result is the norm times the loss scale, 65536 at first, and jumps by a factor of two whenever the scaler adjusts
the scale. A plot shows the scaler, not the training, and code that compares the norm with a threshold (a test for
exploding gradients, a hand-written clip) uses the wrong number.

## How to fix by hand
Call `scaler.unscale_(optimizer)` once before the norm is computed. `scaler.step(optimizer)` then does not unscale the
gradients again. Where the gradients have to stay scaled, divide the norm: `norm / scaler.get_scale()`.

## Fix safety
Unsafe: the measured norm changes; the steps stay the same. The fix inserts `unscale_` above the norm where the next
step is one of the same scaler and nothing unscales in between.

## When to suppress it
Where the norm of the scaled gradients is what you want to see, for instance to choose a scale.

## References
- https://pytorch.org/docs/stable/notes/amp_examples.html#working-with-unscaled-gradients
- https://github.com/pytorch/pytorch/issues/37730
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import libcst as cst

from clipcheck.fixes.unscale import unscaled_above
from clipcheck.python.names import last_name
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import Event
from clipcheck.training.measures import measures, shown
from clipcheck.training.measuring import measuring
from clipcheck.training.microbatches import guarded_step
from clipcheck.training.scalers import is_compensated, is_off

TITLE = "Unscale the gradients before the norm"
BY_HAND = "call `scaler.unscale_(optimizer)` before the norm is computed, or divide it by `scaler.get_scale()`"
BY_ACCELERATE = "call `accelerator.unscale_gradients()` before the norm is computed"
_ENDS = (
    *(EventKind.BACKWARD, EventKind.UNSCALE, EventKind.CLIP, EventKind.EDIT),
    *(EventKind.STEP, EventKind.UPDATE, EventKind.ZERO_GRAD, EventKind.UNKNOWN),
)
# A `zero_grad` after the backward leaves nothing to measure: it is a separate mistake, and masks that of the scale.
_ENDS_CLEARED = tuple(kind for kind in _ENDS if kind is not EventKind.ZERO_GRAD)


def check(source: Source) -> Iterator[Hit]:
    found: dict[cst.CSTNode, Hit] = {}
    masked: dict[cst.CSTNode, Hit] = {}
    for flow in measuring(source):
        for event in flow.of(EventKind.MEASURE):
            node = shown(source, event.at, event.node)
            for hits, kinds in ((found, _ENDS), (masked, _ENDS_CLEARED)):
                backward = _scaled(source, event, kinds)
                if backward is not None and node not in hits and not is_compensated(source, node):
                    hits[node] = _hit(source, event, node, backward)
    yield from found.values()
    yield from (hit._replace(masked=True) for node, hit in masked.items() if node not in found)


def _scaled(source: Source, event: Event, kinds: Sequence[EventKind]) -> Event | None:
    """The scaled backward before the norm, if nothing but a backward comes first on any path there.

    One that is not scaled, in the branch without a scaler, does not make the norm right in the other one.
    """
    if measures(source)[event.node].gradients == "computed":
        return None  # of another loss, which is not scaled
    earlier = event.first_before(*kinds)
    scaled = [one for one in earlier if _is_scaled(source, one)]
    if not scaled or any(one.kind is not EventKind.BACKWARD for one in earlier) or scaled[0].at is event.at:
        return None
    return scaled[0]


def _is_scaled(source: Source, event: Event) -> bool:
    """Whether a backward leaves gradients that a scaler has multiplied: the code's own, or Accelerate's."""
    if event.kind is not EventKind.BACKWARD:
        return False
    if event.scaler is not None:
        return not is_off(source, event.scaler)
    return event.wrapper == "accelerator" and _is_in_float16(source)


def _is_in_float16(source: Source) -> bool:
    """Whether Accelerate is told to train in float16, with its own scaler; in bfloat16 it has none."""
    return any(
        arg.keyword is not None and arg.keyword.value == "mixed_precision" and source.code(arg.value)[1:-1] == "fp16"
        for call in source.nodes(cst.Call)
        if last_name(call.func) == "Accelerator"
        for arg in call.args
    )


def _hit(source: Source, event: Event, node: cst.CSTNode, backward: Event) -> Hit:
    by_hand = BY_HAND if backward.scaler is not None else BY_ACCELERATE
    scaler = source.quoted(backward.scaler, "the scaler", 20)
    message = f"norm of gradients still scaled by {scaler}: 65536 times too large at first"
    fix = _fix(source, event)
    related = ((backward.at, "the gradients are scaled here"),)
    return Hit(node, message, fix, "" if fix else by_hand, related)


def _fix(source: Source, event: Event) -> Fix | None:
    """`unscale_` in a line above, where the next step is the scaler's and nothing unscales before it."""
    if guarded_step(source, event) is not None:
        return None  # under accumulation `unscale_` may run once in several micro-batches
    steps = event.first_after(EventKind.STEP, EventKind.UNSCALE, EventKind.BACKWARD, EventKind.UNKNOWN)
    if any(step.kind is not EventKind.STEP for step in steps):
        return None
    by_name = {
        (source.spelled(step.scaler), source.spelled(step.subject)): step
        for step in steps
        if step.scaler is not None and step.subject is not None and not step.is_called
    }
    if len(by_name) != 1:
        return None
    (step,) = by_name.values()
    line = unscaled_above(source, event, step)
    return None if line is None else Fix(TITLE, Safety.UNSAFE, (line,))
