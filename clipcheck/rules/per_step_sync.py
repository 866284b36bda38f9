"""
## What it does
Finds `.item()`, `float()` or a comparison on the norm that a clip returns, in every step of a loop.

## Why is this bad?
The norm is computed on the device. Reading it synchronizes with the device in every step: the host waits until all
queued kernels are done, and launches the next ones late.

## Why is this rule opt-in?
The cost is small unless steps are short, and many programs read the loss in every step anyway.

## How to fix by hand
Keep the tensor, and read it only where it is logged:

```python
norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
if step % log_every == 0:
    log(norm.item())
```

## Fix safety
No automatic fix: how often the value is needed cannot be seen in the code.

## When to suppress it
Where training runs on the CPU, or another line synchronizes in every step anyway, such as `loss.item()`.

## References
- kohya-ss/musubi-tuner#988, pytorch/pytorch#60691
"""

from __future__ import annotations

from collections.abc import Iterator

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.clips import clips
from clipcheck.training.counting import guard_of
from clipcheck.training.guards import branches, loops

MESSAGE = "reading the norm synchronizes with the device in every step"
BY_HAND = "keep the tensor, and read it only where it is logged"


def check(source: Source) -> Iterator[Hit]:
    for clip in clips(source):
        if not clip.is_norm or not loops(source, clip.call):
            continue
        read = _read(source, clip.call)
        if read is not None:
            yield Hit(read, MESSAGE, None, BY_HAND)
        match source.parent(clip.call):
            case cst.Assign(targets=[cst.AssignTarget(target=cst.Name() as target)]):
                for use in source.names.uses(source.scope(target), target.value):
                    read = _read(source, use)
                    if read is not None and _each_step(source, read, clip.call):
                        yield Hit(read, MESSAGE, None, BY_HAND, ((clip.call, "the norm is computed here"),))


def _read(source: Source, node: cst.CSTNode) -> cst.CSTNode | None:
    """What makes a Python number of the tensor at `node`."""
    parent = source.parent(node)
    match parent:
        case cst.Attribute(attr=cst.Name("item" | "tolist")):
            return source.parent(parent)
        case cst.Arg():
            call = source.parent(parent)
            return call if isinstance(call, cst.Call) and source.qualified(call.func) == "builtins.float" else None
        case cst.Comparison(comparisons=[cst.ComparisonTarget(operator=operator)]) if not isinstance(
            operator, (cst.Is, cst.IsNot, cst.In, cst.NotIn)
        ):
            return parent
    return None


def _each_step(source: Source, read: cst.CSTNode, clip: cst.Call) -> bool:
    """Whether the read runs as often as the clip: in the same loop, and under no further test."""
    extra = len(list(branches(source, read))) - len(list(branches(source, clip)))
    return loops(source, read) == loops(source, clip) and extra <= 0 and guard_of(source, read) is None
