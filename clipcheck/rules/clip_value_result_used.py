"""
## What it does
Finds uses of what `clip_grad_value_` returns.

## Why is this bad?
It returns None. A norm that is wanted for a log comes from `clip_grad_norm_`; to clip a tensor that is no gradient
there is `torch.clamp`.

## Fix safety
No fix: what is meant cannot be known.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_value_.html
- pytorch/pytorch#51945
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.clips import clips

BY_HAND = "drop the result; the norm comes from `clip_grad_norm_`, `torch.clamp` clips any tensor"


def check(source: Source) -> Iterator[Hit]:
    for clip in clips(source):
        used = not isinstance(source.parent(clip.call), (cst.Expr, cst.Return, cst.Lambda))
        if clip.function == "clip_grad_value_" and used:
            yield Hit(clip.call, "uses the result of `clip_grad_value_`, which is None", None, BY_HAND)
