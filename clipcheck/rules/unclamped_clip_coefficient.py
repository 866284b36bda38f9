"""
## What it does
Finds gradients that are multiplied by `max_norm / norm` without anything that keeps this coefficient at 1 or below.

## Why is this bad?
Clipping makes large gradients smaller. Without `min`, `clamp` or an `if`, the coefficient also makes small gradients
larger: with `max_norm=1.0`, a gradient with norm 0.05 is scaled up to norm 1. Near a minimum, the steps then no longer
shrink with the gradient.

## Why is this rule opt-in?
Normalized gradients, which always have the same norm, are a different method and look just like this.

## How to fix by hand
Clamp the coefficient to 1, or call `clip_grad_norm_(parameters, max_norm)` instead:

```python
coefficient = min(1.0, max_norm / (norm + 1e-6))
```

## Fix safety
There is no automatic fix: if normalized gradients are intended, the code is right.

## When to suppress it
If every gradient is to have the norm `max_norm`, as in normalized gradient descent or SAM.

## References
- pytorch/pytorch#151554
"""

from __future__ import annotations

from collections.abc import Iterator

from clipcheck.gradients.manual_clips import manual_clips
from clipcheck.python.source import Source
from clipcheck.rule import Hit

MESSAGE = "clip coefficient is not clamped to 1: gradients with a norm below `max_norm` are scaled up"
BY_HAND = "multiply by `min(1.0, max_norm / norm)`, or call `clip_grad_norm_(parameters, max_norm)`"


def check(source: Source) -> Iterator[Hit]:
    for clip in manual_clips(source):
        if not clip.ratio.bound:
            related = ((clip.statement, "the gradients are scaled here"),)
            yield Hit(clip.ratio.node, MESSAGE, help=BY_HAND, related=related)
