"""
## What it does
Finds torch's `clip_grad_norm_` or `clip_grad_value_` after `fabric.backward(loss)`.

## Why is this bad?
Under fp16 the gradients are still multiplied by the loss scale, so they are clipped to almost nothing; under FSDP or
DeepSpeed they are shards. `fabric.clip_gradients` unscales them and computes the norm across ranks.

## How to fix by hand
Call Fabric's method: `fabric.clip_gradients(model, optimizer, max_norm=max_norm)`.

## Fix safety
Unsafe: calls Fabric's method with the model and the optimizer of the next step, so training changes wherever the clip
was wrong.

## When to suppress it
Where the program only ever runs in bf16 or float32, without FSDP or DeepSpeed.

## References
- https://lightning.ai/docs/fabric/stable/api/fabric_methods.html#clip-gradients
- Lightning-AI/pytorch-lightning#16715
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.verbs import replace
from clipcheck.python.names import last_name
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.acts import EventKind
from clipcheck.training.clips import Clip, clips
from clipcheck.training.flows import Event, flows

BY_HAND = "call `fabric.clip_gradients(model, optimizer, max_norm=…)`"


def check(source: Source) -> Iterator[Hit]:
    own = {clip.call: clip for clip in clips(source)}
    for flow in flows(source, EventKind.CLIP):
        for event in flow.of(EventKind.CLIP):
            clip = own.get(event.node) if isinstance(event.node, cst.Call) else None
            earlier = event.first_before(EventKind.BACKWARD, EventKind.STEP)
            if clip is None or not earlier or event.is_called or not all(map(_by_fabric, earlier)):
                continue
            message = "clips wrongly under fp16, FSDP or DeepSpeed: call `fabric.clip_gradients` instead"
            fix = None if earlier[0].is_called else _fix(source, clip, event, earlier[0])
            yield Hit(
                event.at, message, fix, "" if fix else BY_HAND, ((earlier[0].at, "the gradients are computed here"),)
            )


def _by_fabric(event: Event) -> bool:
    match event.node:
        case cst.Call(func=cst.Attribute(value=receiver, attr=cst.Name("backward")), args=[_, *_]):
            return last_name(receiver) == "fabric"
    return False


def _fix(source: Source, clip: Clip, event: Event, backward: Event) -> Fix | None:
    steps = event.first_after(EventKind.STEP, EventKind.BACKWARD, EventKind.UNKNOWN)
    if len(steps) != 1 or steps[0].kind is not EventKind.STEP or steps[0].subject is None or steps[0].is_called:
        return None
    if (
        clip.unknown
        or clip.limit is None
        or not clip.arguments.keys() <= {"parameters", "max_norm", "norm_type", "clip_value"}
    ):
        return None
    match clip.parameters, backward.node:
        case cst.Call(func=cst.Attribute(value=model, attr=cst.Name("parameters")), args=()), cst.Call(
            func=cst.Attribute(value=fabric)
        ):
            limit = "max_norm" if clip.is_norm else "clip_val"
            given = [source.code(model), source.code(steps[0].subject), f"{limit}={source.code(clip.limit)}"]
            if clip.norm_type is not None:
                given.append(f"norm_type={source.code(clip.norm_type)}")
            text = f"{source.outer_code(fabric)}.clip_gradients({', '.join(given)})"
            return Fix("Call Fabric's method", Safety.UNSAFE, (replace(source, clip.call, text),))
    return None
