"""
## What it does
Finds clips inside apex's `with amp.scale_loss(loss, optimizer) as scaled_loss:`.

## Why is this bad?
The gradients are unscaled at the end of the block. Inside it they are multiplied by the loss scale, so they are clipped
to almost nothing.

## How to fix by hand
Clip after the block, before the step:

```python
with amp.scale_loss(loss, optimizer) as scaled_loss:
    scaled_loss.backward()
torch.nn.utils.clip_grad_norm_(amp.master_params(optimizer), max_norm)
optimizer.step()
```

## Fix safety
Unsafe: moves the clip after the block, so that training changes.

## When to suppress it
Where `amp` is always initialized with `loss_scale=1.0`.

## References
- https://nvidia.github.io/apex/advanced.html#gradient-clipping
- NVIDIA/apex#201, pytorch/vision#4874
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.fixes.move import moved_after
from clipcheck.python.source import Source
from clipcheck.rule import Fix, Hit, Safety
from clipcheck.training.clips import clips

BY_HAND = "clip after the block"


def check(source: Source) -> Iterator[Hit]:
    for clip in clips(source):
        block = _scale_loss(source, clip.call)
        if block is not None:
            where = source.where(block)
            message = f"clips scaled gradients: they are unscaled at the end of the block on {where}"
            fix = _fix(source, clip.call, block)
            related = ((block.items[0].item, "the gradients are scaled in this block"),)
            yield Hit(clip.call, message, fix, "" if fix else BY_HAND, related)


def _scale_loss(source: Source, node: cst.CSTNode) -> cst.With | None:
    for above in source.ancestors(node):
        match above:
            case cst.With(items=[cst.WithItem(item=cst.Call(func=cst.Attribute(attr=cst.Name("scale_loss"))))]):
                return above
            case cst.FunctionDef():
                return None
    return None


def _fix(source: Source, call: cst.Call, block: cst.With) -> Fix | None:
    statement = source.statement(call)
    siblings, index = source.siblings(statement)
    if source.parent(statement) is not block.body or index == 0 or index + 1 != len(siblings):
        return None
    edits = moved_after(source, [statement], block)
    if edits is None:
        return None
    # the block ends with the clip's own lines: both edits become one
    (start, stop, _), (_, _, text) = edits
    return Fix("Clip after the block", Safety.UNSAFE, (edits[0]._replace(start=start, end=stop, text=text),))
