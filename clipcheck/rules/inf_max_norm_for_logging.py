"""
## What it does
Finds `clip_grad_norm_` with an infinite limit, called to learn the norm.

## Why is this bad?
The gradients are written (multiplied by 1.0) only to be measured. Where one gradient holds an infinity the factor is
inf / inf, and every gradient of every parameter becomes NaN.

## Fix safety
Unsafe: measures with `get_total_norm`, which needs gradients, not parameters, and leaves them alone.

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

MESSAGE = "writes to every gradient only to measure them, and one infinity makes all of them NaN"
BY_HAND = "use `get_total_norm([p.grad for p in parameters if p.grad is not None])`"


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
