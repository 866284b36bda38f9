"""
## What it does
Finds hand-written norm clipping: a coefficient `max_norm / norm`, kept at 1 or below by an `if`, `min` or `clamp`, and a
loop that multiplies every gradient by it.

## Why is this bad?
`clip_grad_norm_(parameters, max_norm)` does the same in one call, without one kernel per parameter and, where the code
checks `if coefficient < 1`, without synchronizing. It also handles gradients on several devices, sharded gradients and
parameters without a gradient.

If the norm is merged from several norms, reduced over processes, passed in as an argument, or covers other tensors than
those that are scaled, `clip_grads_with_norm_(parameters, max_norm, total_norm)` is the half that scales by a given norm.

## Why is this rule opt-in?
The hand-written loop is often right, only slower. Replacing it is a matter of taste and speed.

## How to fix by hand
Replace the norm, the coefficient and the loop with one call, which returns the total norm before clipping:

```python
total_norm = clip_grad_norm_(model.parameters(), max_norm)
```

## Fix safety
Unsafe: `clip_grad_norm_` adds 1e-6 to the norm, so the coefficient differs in the seventh digit from code that adds
something else. The fix is offered if the norm of the same parameters is computed right before the loop and nothing else
happens in between. No automatic fix is offered if the norm comes from somewhere else, is reduced over processes, or is
that of other tensors.

## When to suppress it
If the loop scales in its own way on purpose, for example with another epsilon to reproduce a paper.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html
"""

from __future__ import annotations

from collections.abc import Iterator

from clipcheck.fixes.clip_to_call import rewrite_clip
from clipcheck.gradients.loops import clauses_around
from clipcheck.gradients.manual_clips import ManualClip, manual_clips
from clipcheck.gradients.norm_origin import is_over, origins
from clipcheck.gradients.spelling import Refused
from clipcheck.python.source import Source
from clipcheck.rule import Hit

MESSAGE = "hand-written norm clipping: one `clip_grad_norm_` call does the same"
BY_HAND = "no automatic fix: {why}; call `clip_grad_norm_(parameters, max_norm)`, which returns the norm"
GIVEN = "hand-written scaling by a given norm: one `clip_grads_with_norm_` call does the same"
WITH_NORM = "keep the norm and scale with `clip_grads_with_norm_(parameters, max_norm, total_norm)`"


def check(source: Source) -> Iterator[Hit]:
    for clip in manual_clips(source):
        if not clip.ratio.bound:
            continue
        related = ((clip.statement, "the gradients are scaled here"),)
        outcome = rewrite_clip(source, clip)
        if not isinstance(outcome, Refused):
            yield Hit(clip.ratio.node, MESSAGE, outcome, "", related)
        elif _is_of_the_scaled(source, clip):
            yield Hit(clip.ratio.node, MESSAGE, None, BY_HAND.format(why=outcome.why), related)
        else:
            yield Hit(clip.ratio.node, GIVEN, None, WITH_NORM, related)


def _is_of_the_scaled(source: Source, clip: ManualClip) -> bool:
    """Whether the norm is that of the tensors that are scaled, computed here, and nothing else."""
    scaled = clauses_around(source, clip.statement, clip.loop).clauses
    found = origins(source, clip.ratio.norm)
    return found is not None and all(is_over(source, one, scaled) for one in found)
