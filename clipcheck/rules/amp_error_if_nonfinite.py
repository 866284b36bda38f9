"""
## What it does
Finds `error_if_nonfinite=True` in a clip of gradients that a `GradScaler` has unscaled.

## Why is this bad?
With a loss scale, overflows are normal: the scaler finds the infinity, skips the step and lowers the scale. With
`error_if_nonfinite=True` the clip raises a RuntimeError first, which ends the training.

## How to fix by hand
Drop `error_if_nonfinite=True`. To notice persistent overflows, log `scaler.get_scale()`: it keeps falling.

## Fix safety
Unsafe: removes the argument, so that the scaler skips the step instead.

## When to suppress it
Where the RuntimeError is caught and answered with `scaler.update()`, or training should end at the first overflow.

## References
- pytorch/pytorch#53843, pytorch/pytorch#55169
- https://pytorch.org/docs/stable/amp.html#torch.amp.GradScaler
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.rule import Edit, Fix, Hit, Safety
from clipcheck.training.acts import EventKind
from clipcheck.training.clips import Clip, clips
from clipcheck.training.flows import Event, flows

MESSAGE = "ends training at the first overflow: drop `error_if_nonfinite`, and the scaler skips such steps"


def check(source: Source) -> Iterator[Hit]:
    strict = {clip.call: clip for clip in clips(source) if _is_strict(source, clip)}
    for flow in flows(source, EventKind.CLIP) if strict else ():
        for event in flow.of(EventKind.CLIP):
            clip = strict.get(event.node) if isinstance(event.node, cst.Call) else None
            unscale = _unscaled(event) if clip is not None and not event.is_called else None
            if clip is not None and unscale is not None and source.enclosing(clip.call, cst.Try) is None:
                fix = _fix(source, clip)
                related = ((unscale.at, "unscaled infinities stay infinite"),)
                yield Hit(clip.call, MESSAGE, fix, "" if fix else "drop `error_if_nonfinite`", related)


def _is_strict(source: Source, clip: Clip) -> bool:
    value = clip.arguments.get("error_if_nonfinite")
    return value is not None and source.code(value) == "True"


def _unscaled(event: Event) -> Event | None:
    earlier = event.first_before(EventKind.UNSCALE, EventKind.BACKWARD, EventKind.STEP, EventKind.UNKNOWN)
    return (
        earlier[0] if earlier and all(e.kind is EventKind.UNSCALE and e.subject is not None for e in earlier) else None
    )


def _fix(source: Source, clip: Clip) -> Fix | None:
    for before, arg in pairwise(clip.call.args):
        if arg.keyword is not None and arg.keyword.value == "error_if_nonfinite":
            start, end = source.outer_span(before.value)[1], source.span(arg.value)[1]
            if "#" in source.text[start:end]:
                return None
            return Fix("Drop `error_if_nonfinite`", Safety.UNSAFE, (Edit(start, end, ""),))
    return None
