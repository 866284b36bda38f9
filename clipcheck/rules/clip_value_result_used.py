"""
## What it does
Finds code that uses the return value of `clip_grad_value_`.

## Why is this bad?
`clip_grad_value_` returns None: a log shows None instead of a norm, and arithmetic with the result raises a TypeError.

## How to fix by hand
Call it as a statement. If you want a norm to log, measure it before; to clip another tensor, use `torch.clamp`:

```python
total_norm = grad_norm(model.parameters())
clip_grad_value_(model.parameters(), clip_value)
```

## Fix safety
There is no automatic fix: only you know what is meant.

## When to suppress it
If the code expects None, for example in a test of the return value.

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

BY_HAND = "drop the result; `grad_norm` computes the norm, `torch.clamp` clips any tensor"


def check(source: Source) -> Iterator[Hit]:
    for clip in clips(source):
        used = not isinstance(source.parent(clip.call), (cst.Expr, cst.Return, cst.Lambda))
        if clip.function == "clip_grad_value_" and used:
            yield Hit(clip.call, "uses the result of `clip_grad_value_`, which is always None", None, BY_HAND)
