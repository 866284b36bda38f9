"""
## What it does
Finds torch's `clip_grad_norm_` or `clip_grad_value_` after `accelerator.backward(loss)`.

## Why is this bad?
Under fp16 the gradients are still multiplied by the loss scale, so they are clipped to almost nothing; under FSDP the
norm is that of this rank's shards; DeepSpeed ignores the call and clips itself; on TPU the gradients are not reduced
yet. `accelerator.clip_grad_norm_` handles all of these.

## How to fix by hand
Call the accelerator's method; under gradient accumulation, only where gradients are synchronized:

```python
accelerator.backward(loss)
if accelerator.sync_gradients:
    accelerator.clip_grad_norm_(model.parameters(), max_norm)
optimizer.step()
```

## Fix safety
Unsafe: calls the accelerator's method with the same arguments, so training changes wherever the clip was wrong.

## When to suppress it
Where the program only ever runs in bf16 or float32, without FSDP, DeepSpeed or TPUs.

## References
- https://huggingface.co/docs/accelerate/package_reference/accelerator
- huggingface/trl#595, huggingface/accelerate#641, huggingface/diffusers#721
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.verbs import replace
from clipcheck.python.names import last_name
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.acts import EventKind
from clipcheck.training.clips import Clip, clips
from clipcheck.training.flows import Event, flows
from clipcheck.training.guards import branches
from clipcheck.training.parameters import assigned

BY_HAND = "call `accelerator.clip_grad_norm_` or `accelerator.clip_grad_value_`"
_SHARDED = re.compile(r"FSDP|FullyShardedDataParallel|deepspeed", re.IGNORECASE)


def check(source: Source) -> Iterator[Hit]:
    own = {clip.call: clip for clip in clips(source)}
    if any(node.name.value == "Accelerator" for node in source.nodes(cst.ClassDef)):
        return  # accelerate's own source
    for flow in flows(source, EventKind.CLIP):
        for event in flow.of(EventKind.CLIP):
            clip = own.get(event.node) if isinstance(event.node, cst.Call) else None
            if any(other.wrapper and other.at is event.at for other in flow.of(EventKind.CLIP)):
                continue  # a function that handles both cases
            backward = _accelerated(source, event) if clip is not None else None
            if clip is not None and backward is not None:
                message = "clips wrongly under fp16, FSDP or DeepSpeed: call the accelerator's method instead"
                fix = None if event.is_called or backward.is_called else _fix(source, clip, backward)
                yield Hit(
                    event.at, message, fix, "" if fix else BY_HAND, ((backward.at, "the gradients are computed here"),)
                )


def _accelerated(source: Source, event: Event) -> Event | None:
    """The `accelerator.backward(loss)` whose gradients are clipped."""
    earlier = event.first_before(EventKind.BACKWARD, EventKind.STEP, EventKind.UNSCALE)
    found = [e for e in earlier if e.kind is EventKind.BACKWARD and _is_accelerator(source, e)]
    if any(e.kind is EventKind.UNSCALE for e in earlier) and not _SHARDED.search(source.text):
        return None
    if not found or (event.is_called and (found[0].at is event.at or any(branches(source, event.node)))):
        return None
    return found[0]


def _is_accelerator(source: Source, backward: Event) -> bool:
    match backward.node:
        case cst.Call(func=cst.Attribute(value=receiver, attr=cst.Name("backward")), args=[_, *_]):
            match assigned(source, receiver):
                case cst.Call(func=func) if source.qualified(func) is not None:
                    return last_name(func) == "Accelerator"
            return last_name(receiver) == "accelerator"
    return False


def _fix(source: Source, clip: Clip, backward: Event) -> Fix | None:
    if clip.unknown or clip.function not in ("clip_grad_norm_", "clip_grad_value_"):
        return None
    if not clip.arguments.keys() <= {"parameters", "max_norm", "norm_type", "clip_value"}:
        return None
    match backward.node:
        case cst.Call(func=cst.Attribute(value=receiver)):
            text = f"{source.outer_code(receiver)}.{clip.function}"
            return Fix(f"Call `{text}`", Safety.UNSAFE, (replace(source, clip.call.func, text),))
    return None
