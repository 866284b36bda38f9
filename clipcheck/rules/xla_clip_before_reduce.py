"""
## What it does
Finds a clip followed by `xm.optimizer_step(optimizer)` of torch_xla.

## Why is this bad?
`xm.optimizer_step` sums the gradients over all replicas and then steps. A clip before it clips each replica's own
gradients; with `n` replicas, the norm of their sum may be up to `n * max_norm`.

## How to fix by hand
Reduce the gradients before the clip:

```python
xm.reduce_gradients(optimizer)
torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
optimizer.step()
```

## Fix safety
Unsafe: reduces the gradients first, clips, and calls the optimizer's own step, so that training changes.

## When to suppress it
Where each replica is to be clipped on its own, or the program runs on a single replica.

## References
- pytorch/xla#1708, pytorch/xla#1709, huggingface/transformers#20116
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.move import stands_alone
from clipcheck.fixes.verbs import insert_line_before, replace
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import Event, flows

BY_HAND = "call `xm.reduce_gradients(optimizer)` before the clip, and `optimizer.step()` after it"


def check(source: Source) -> Iterator[Hit]:
    if any(node.value == "reduce_gradients" for node in source.nodes(cst.Name)):
        return
    for flow in flows(source, EventKind.CLIP):
        for clip in flow.of(EventKind.CLIP):
            step = _reducing_step(source, clip)
            if step is not None and not clip.wrapper:
                message = (
                    f"clips each replica's own gradients: the step on {source.where(step.at)} sums them afterwards"
                )
                fix = None if clip.is_called or step.is_called else _fix(source, clip, step)
                yield Hit(clip.at, message, fix, "" if fix else BY_HAND, ((step.at, "reduced here"),))


def _reducing_step(source: Source, clip: Event) -> Event | None:
    later = clip.first_after(EventKind.STEP, EventKind.BACKWARD, EventKind.UNKNOWN)
    for event in later:
        match event.node:
            case cst.Call(func=func) if source.origin(func).endswith("xla_model.optimizer_step"):
                continue
        return None
    return later[0] if later else None


def _fix(source: Source, clip: Event, step: Event) -> Fix | None:
    statement = source.statement(clip.node)
    match step.node:
        case cst.Call(func=cst.Attribute(value=xm), args=[cst.Arg(value=optimizer)]) if stands_alone(source, statement):
            reduce = f"{source.outer_code(xm)}.reduce_gradients({source.code(optimizer)})"
            edits = (
                insert_line_before(source, statement, reduce),
                replace(source, step.node, f"{source.outer_code(optimizer)}.step()"),
            )
            return Fix("Reduce the gradients before the clip", Safety.UNSAFE, edits)
    return None
