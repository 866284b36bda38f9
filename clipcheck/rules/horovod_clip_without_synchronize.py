"""
## What it does
Finds a clip before the step of Horovod's `DistributedOptimizer` without `optimizer.synchronize()`.

## Why is this bad?
Horovod averages the gradients in the background and waits for the result in `step()`. A clip before that changes this
worker's own gradients, or gradients that are being overwritten at that moment.

## Why is this rule opt-in?
Programs often call `synchronize()` in a function of another file, which clipcheck does not read.

## How to fix by hand
Synchronize before the clip:

```python
loss.backward()
optimizer.synchronize()
torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
with optimizer.skip_synchronize():
    optimizer.step()
```

## Fix safety
Unsafe: synchronizes before the clip, and steps without synchronizing again, so that training changes.

## When to suppress it
Where the gradients are synchronized in a way that the file does not show, or only one worker runs.

## References
- https://horovod.readthedocs.io/en/stable/api.html#module-horovod.torch
- horovod/horovod#1099, horovod/horovod#1104
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.move import stands_alone
from clipcheck.fixes.verbs import indentation, insert_line_before, replace
from clipcheck.python.names import last_name
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.acts import EventKind
from clipcheck.training.flows import Event, flows

BY_HAND = "call `optimizer.synchronize()` before the clip, and step under `optimizer.skip_synchronize()`"


def check(source: Source) -> Iterator[Hit]:
    if any(node.value in ("synchronize", "skip_synchronize") for node in source.nodes(cst.Name)):
        return
    for flow in flows(source, EventKind.CLIP):
        for clip in flow.of(EventKind.CLIP):
            later = clip.first_after(EventKind.STEP, EventKind.BACKWARD, EventKind.UNKNOWN)
            if later and all(_is_distributed(source, event) for event in later) and not clip.is_called:
                message = f"clips before the gradients are averaged: Horovod waits for them in the step on {source.where(later[0].at)}"
                fix = _fix(source, clip, later[0])
                yield Hit(clip.at, message, fix, "" if fix else BY_HAND, ((later[0].at, "averaged here"),))


def _is_distributed(source: Source, step: Event) -> bool:
    """Whether the optimizer that steps was last wrapped by `hvd.DistributedOptimizer`."""
    if step.kind is not EventKind.STEP or not isinstance(step.subject, cst.Name):
        return False
    values = [b.value for b in source.bindings(step.subject) if b.kind == "assign"]
    match values[-1:]:
        case [cst.Call(func=func)]:
            return last_name(func) == "DistributedOptimizer" and source.origin(func).startswith("horovod")
    return False


def _fix(source: Source, clip: Event, step: Event) -> Fix | None:
    statement, target = source.statement(clip.node), source.statement(step.node)
    if step.is_called or step.subject is None or not (stands_alone(source, statement) and stands_alone(source, target)):
        return None
    if not isinstance(target, cst.SimpleStatementLine) or not isinstance(target.body[0], cst.Expr):
        return None
    optimizer = source.code(step.subject)
    unit = source.module.default_indent
    lines = f"with {optimizer}.skip_synchronize():{source.newline}{indentation(source, target)}{unit}"
    edits = (
        insert_line_before(source, statement, f"{optimizer}.synchronize()"),
        replace(source, target.body[0], lines + source.code(target.body[0])),
    )
    return Fix("Synchronize before the clip", Safety.UNSAFE, edits)
