"""
## What it does
Finds clips whose limit is zero, negative, a bool or None.

## Why is this bad?
0 does not switch clipping off: it sets every gradient to zero. A negative limit reverses the gradients, so that
training climbs; a negative `clip_value` sets every gradient to that value. `True` is 1.0, and None raises a TypeError.

## Fix safety
No fix: which limit is meant cannot be known. To measure without clipping use `get_total_norm`; to switch clipping off,
leave the call out.

## References
- pytorch/pytorch#31367, pytorch/torchtitan#4295, OpenNMT/OpenNMT-py#1140
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.python.literals import number
from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.clips import Clip, clips
from clipcheck.training.guards import branches

BY_HAND = "pass a positive limit; to switch clipping off, leave the call out"


def check(source: Source) -> Iterator[Hit]:
    for clip in clips(source):
        fault = _fault(source, clip)
        if fault and not _expects_error(source, clip.call):
            yield Hit(clip.call, fault, None, BY_HAND)


def _fault(source: Source, clip: Clip) -> str:
    limit = clip.limit
    if limit is None:
        return ""
    shown = source.quoted(limit, "the limit", 20)
    match limit:
        case cst.Name("True"):
            return f"{shown} as the limit is 1.0, not a switch"
        case cst.Name("False"):
            return f"{shown} as the limit is 0: every gradient is set to zero"
        case cst.Name("None"):
            return f"{shown} as the limit raises a TypeError in the first step"
        case cst.Name():
            value = _constant(source, limit)
        case _:
            value = number(source, limit)
    if value is None or value > 0:
        return ""
    if value == 0:
        return f"a limit of {shown} sets every gradient to zero; it does not switch clipping off"
    if clip.function == "clip_grad_value_":
        return f"a limit of {shown} sets every gradient to that value"
    return f"a limit of {shown} reverses every gradient; it does not switch clipping off"


def _constant(source: Source, name: cst.Name) -> float | None:
    """The number that a name always stands for, unless a test around the clip looks at it first."""
    bindings = source.bindings(name)
    if len(bindings) != 1 or bindings[0].kind != "assign":
        return None
    for branch, _ in branches(source, name):
        if any(isinstance(node, cst.Name) and node.value == name.value for node in source.walk(branch.test)):
            return None
    return number(source, bindings[0].value)


def _expects_error(source: Source, node: cst.CSTNode) -> bool:
    """Whether a test wants to see the fault: `with pytest.raises(…):`."""
    for above in source.ancestors(node):
        if isinstance(above, cst.With) and any("aises" in source.code(item.item) for item in above.items):
            return True
    return False
