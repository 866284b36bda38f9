"""
## What it does
Finds `clip_grad_norm_` with an infinite `max_norm`, called only to get the total norm.

## Why is this bad?
Every gradient is written (multiplied by 1.0) only to be measured. If one gradient contains an infinity, the coefficient
is inf / inf, and every gradient of every parameter becomes NaN.

## Why is this rule opt-in?
With finite gradients the result is right, and the idiom is common.

## How to fix by hand
Measure without clipping, with `clipcheck.runtime.grad_norm(parameters)` or with torch 2.6:

```python
total_norm = get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
```

## Fix safety
Unsafe: `get_total_norm` takes gradients instead of parameters and does not change them, so a gradient with an infinity no
longer turns the others into NaN.

## When to suppress it
If the code has to run on torch before 2.6 and nonfinite gradients are handled elsewhere.

## References
- Skovorp/feral#16, pytorch/pytorch#37760
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.imports import reach
from clipcheck.fixes.verbs import replace
from clipcheck.python.literals import number
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.clips import Clip, clips
from clipcheck.training.one_shot import is_one_shot
from clipcheck.training.parameters import is_plain

MESSAGE = "measures the norm by clipping to infinity: one infinite gradient makes all gradients NaN"
BY_HAND = "call `get_total_norm([p.grad for p in parameters if p.grad is not None])`"


def check(source: Source) -> Iterator[Hit]:
    for clip in clips(source):
        if clip.is_norm and number(source, clip.limit) == math.inf:
            fix = _fix(source, clip)
            yield Hit(clip.call, MESSAGE, fix, "" if fix else BY_HAND)


def _fix(source: Source, clip: Clip) -> Fix | None:
    given = clip.parameters
    if given is None or clip.unknown or not clip.arguments.keys() <= {"parameters", "max_norm", "norm_type"}:
        return None
    if not (is_one_shot(source, given) or is_plain(given)) or isinstance(given, cst.GeneratorExp):
        return None
    reached = reach(source, clip.call, "get_total_norm")
    norm_type = f", {source.code(clip.norm_type)}" if clip.norm_type is not None else ""
    text = f"{reached.text}([p.grad for p in {source.outer_code(given)} if p.grad is not None]{norm_type})"
    edits = (replace(source, clip.call, text),)
    return Fix("Measure with `get_total_norm`", Safety.UNSAFE, edits, reached.imports)
