"""
## What it does
Finds clips whose limit is zero, negative, NaN, a bool, None or a string, or becomes one of these where a setting is
missing: `limit or 0.0`, `config.get("clip", 0)`, a test `limit >= 0` that lets 0 through.

## Why is this bad?
0 does not switch clipping off: it sets every gradient to zero. A negative limit flips the sign of the gradients, so the
loss is maximized; a negative `clip_value` sets every gradient to that value. NaN makes every gradient NaN. `True` is 1.0,
None raises a TypeError, and a string that is no number a ValueError.

## Fix safety
No fix: which limit is meant cannot be known. To measure without clipping use `get_total_norm`; to switch clipping off,
leave the call out.

## References
- pytorch/pytorch#31367, pytorch/torchtitan#4295, OpenNMT/OpenNMT-py#1140
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.clips import Clip, clips
from clipcheck.training.guards import expects_error
from clipcheck.training.possible_limits import Constant, Guard, Value, constants, guards, passes

BY_HAND = "pass a positive limit; to switch clipping off, leave the call out"
_NEGATIVE = (-0.5, -2.0)  # what a test of the sign keeps out, and one for a single value such as -1 does not


def check(source: Source) -> Iterator[Hit]:
    for clip in clips(source):
        if clip.limit is None or expects_error(source, clip.call):
            continue
        fault = _fault(source, clip, clip.limit)
        guard = None if fault else _lets_zero_through(source, clip, clip.limit)
        if guard is not None:
            fault = (
                f"the test on {source.where(guard.test)} lets 0 through, and a limit of 0 sets every gradient to zero"
            )
        if fault:
            related = () if guard is None else ((guard.test, "0 passes this"),)
            yield Hit(clip.call, fault, None, BY_HAND, related)


def _fault(source: Source, clip: Clip, limit: cst.BaseExpression) -> str:
    shown = source.quoted(limit, "the limit", 20)
    faults = (_told(clip, shown, constant) for constant in constants(source, limit))
    return next(filter(None, faults), "")


def _told(clip: Clip, shown: str, constant: Constant) -> str:
    """What a limit does to the gradients, "" where it is one that can be meant."""
    value = constant.value
    if value is None:
        return f"{shown} as the limit {'raises' if constant.always else 'may raise'} a TypeError in the first step"
    if value is True:
        return f"{shown} as the limit is 1.0, not a switch"
    if value is False:
        return f"{shown} as the limit is 0: every gradient is set to zero"
    if isinstance(value, str):
        return _told_of_string(shown, value)
    effect = _effect(clip, value)
    if not effect:
        return ""
    if constant.always:
        ends = "" if math.isnan(value) else "; it does not switch clipping off"
        return f"a limit of {shown} {effect}{ends}"
    return f"the limit {shown} can be {value:g}, which {effect}"


def _effect(clip: Clip, value: float) -> str:
    """What a limit that is no limit does, "" for one that is."""
    if math.isnan(value):
        return "makes every gradient NaN"
    if value > 0:
        return ""
    if value == 0:
        return "sets every gradient to zero"
    by_value = clip.function == "clip_grad_value_"
    return "sets every gradient to that value" if by_value else "flips the sign of every gradient"


def _told_of_string(shown: str, text: Value) -> str:
    try:
        float(str(text))
    except ValueError:
        return f"{shown} as the limit is no number: raises a ValueError in the first step"
    return f"{shown} as the limit is a string: pass a number, torch converts it by chance only"


def _lets_zero_through(source: Source, clip: Clip, limit: cst.BaseExpression) -> Guard | None:
    """The test that keeps negative limits out and 0 not: it was to switch clipping off."""
    tests = list(guards(source, clip.call))
    if not all(passes(source, test, limit, 0.0) for test in tests):
        return None
    keeps_out = (test for test in tests if not any(passes(source, test, limit, value) for value in _NEGATIVE))
    return next(keeps_out, None)
