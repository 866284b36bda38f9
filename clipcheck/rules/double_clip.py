"""
## What it does
Finds a clip right after another one of the same kind for the same parameters, with the same or a larger `max_norm` or
`clip_value`.

## Why is this bad?
The second call cannot change anything: the first one has already bounded the gradients. Most often a line was copied,
and other parameters, or another `max_norm`, were intended.

## How to fix by hand
Delete one of the two calls, or pass the parameters or the `max_norm` that the second one was intended for.

## Fix safety
No automatic fix: the code does not say what the second call was intended for.

## When to suppress it
Where the parameters are changed between the two calls in a way that the code does not show.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import libcst as cst

from clipcheck.python.literals import number
from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.clips import Clip, clips

BY_HAND = "delete one of the two, or pass the intended parameters"


def check(source: Source) -> Iterator[Hit]:
    for clip in clips(source):
        first = _right_before(source, clip)
        if first is not None and _does_nothing(source, first, clip):
            message = f"changes nothing: {source.where(first.call)} has already clipped the same parameters"
            yield Hit(clip.call, message, None, BY_HAND, ((first.call, "clipped here"),))


def _right_before(source: Source, clip: Clip) -> Clip | None:
    """The clip on the line above."""
    block, index = source.siblings(source.statement(clip.call))
    above = block[index - 1] if index else None
    for other in clips(source):
        if isinstance(above, cst.SimpleStatementLine) and source.statement(other.call) is above:
            return other
    return None


def _does_nothing(source: Source, first: Clip, second: Clip) -> bool:
    if first.function != second.function or first.parameters is None or second.parameters is None:
        return False
    if source.spelled(first.parameters) != source.spelled(second.parameters) or first.limit is None:
        return False
    if _type_of(source, first) != _type_of(source, second):
        return False
    if not isinstance(source.parent(second.call), cst.Expr) or second.limit is None:
        return False  # the second one measures
    if source.spelled(first.limit) == source.spelled(second.limit):
        return True
    small, large = number(source, first.limit), number(source, second.limit)
    return small is not None and large is not None and small <= large and large != math.inf


def _type_of(source: Source, clip: Clip) -> str:
    return "2.0" if clip.norm_type is None else source.spelled(clip.norm_type)
