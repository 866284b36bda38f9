"""
## What it does
Finds clipping by norm that is written out: a factor `max_norm / norm`, held at one by a test, `min` or `clamp`, and a loop
that multiplies every gradient by it.

## Why is this bad?
`clip_grad_norm_(parameters, max_norm)` does the same in one call, without a kernel per parameter and, where the code tests
`if factor < 1`, without waiting for the device. It also handles gradients on several devices, sharded ones and `None`.
Where the norm is merged of several, reduced over processes, handed in, or covers other tensors than are scaled,
`clip_grads_with_norm_(parameters, max_norm, total_norm)` is the half that scales by a norm that is known.

## Fix safety
Unsafe: `clip_grad_norm_` adds 1e-6 to the norm, so the factor differs in the seventh digit from code that adds something
else. The fix is offered where the norm is computed right before, of the same parameters, and nothing else happens. None is
offered where the norm comes from somewhere else, is reduced over processes, or belongs to other tensors.

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

MESSAGE = "clipping by norm written out by hand: one `clip_grad_norm_` call does it"
BY_HAND = "no fix here: {why}; call `clip_grad_norm_(parameters, max_norm)`, which returns the norm"
GIVEN = "gradients scaled by hand to a norm from elsewhere: `clip_grads_with_norm_` does it in one call"
WITH_NORM = "keep the norm, and scale with `clip_grads_with_norm_(parameters, max_norm, total_norm)`"


def check(source: Source) -> Iterator[Hit]:
    for clip in manual_clips(source):
        if not clip.ratio.bound:
            continue
        related = ((clip.statement, "the gradients are multiplied here"),)
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
