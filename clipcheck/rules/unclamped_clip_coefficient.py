"""
## What it does
Finds gradients that are multiplied by `max_norm / norm` with nothing that keeps the factor at one or below.

## Why is this bad?
Clipping makes large gradients smaller. Without `min`, `clamp` or a test the factor also makes small ones larger: a gradient
of norm 0.05 comes out with norm 1. Near a minimum that is a step that does not shrink with the gradient.

## Fix safety
There is no fix: where normalised gradients are meant, the code is right. Otherwise call `clip_grad_norm_`.

## References
- pytorch/pytorch#151554
"""

from __future__ import annotations

from collections.abc import Iterator

from clipcheck.gradients.manual_clips import manual_clips
from clipcheck.python.source import Source
from clipcheck.rule import Hit

MESSAGE = "clip factor is never held at one: gradients below the limit are scaled up"
BY_HAND = "multiply by `min(1.0, max_norm / norm)`, or call `clip_grad_norm_(parameters, max_norm)`"


def check(source: Source) -> Iterator[Hit]:
    for clip in manual_clips(source):
        if not clip.ratio.bound:
            related = ((clip.statement, "the gradients are multiplied here"),)
            yield Hit(clip.ratio.node, MESSAGE, help=BY_HAND, related=related)
