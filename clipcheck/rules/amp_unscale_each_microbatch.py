"""
## What it does
Finds `scaler.unscale_(optimizer)` for every micro-batch although `scaler.step(optimizer)` runs once in several.

## Why is this bad?
`unscale_` may run once for each optimizer between two steps: the second call raises `RuntimeError: unscale_() has
already been called on this optimizer since the last update()`. Where a step resets it, gradients that are unscaled and
gradients that are not are added up.

## Fix safety
Unsafe: moves `unscale_`, with the clip that follows it, under the accumulation guard.

## References
- microsoft/Swin-Transformer#311, pytorch/pytorch#36601, huggingface/accelerate#641
- https://pytorch.org/docs/stable/notes/amp_examples.html#gradient-accumulation
"""

from __future__ import annotations

from collections.abc import Iterator

from clipcheck.fixes.into_guard import into_guard
from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import flows
from clipcheck.training.microbatches import guarded_step

BY_HAND = "unscale once, right before the clip and the step"


def check(source: Source) -> Iterator[Hit]:
    for flow in flows(source, EventKind.UNSCALE):
        for unscale in flow.of(EventKind.UNSCALE):
            step = guarded_step(source, unscale)
            if step is not None and step.scaler is not None:
                message = f"unscales every micro-batch, but the step on {source.where(step.at)} comes once in several"
                fix = into_guard(source, flow, unscale, step)
                yield Hit(unscale.at, message, fix, "" if fix else BY_HAND, ((step.at, "the step is here"),))
