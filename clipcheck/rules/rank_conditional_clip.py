"""
## What it does
Finds clips of sharded parameters in a branch that only one rank takes: `if rank == 0:`.

## Why is this bad?
With FSDP or DTensor, all ranks compute the norm together. If one rank calls the clip and the others do not, it waits
for them until the process group times out.

## How to fix by hand
Call the clip on all ranks, and test the rank only to log the norm:

```python
norm = torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
if rank == 0:
    log(norm)
```

## Fix safety
No automatic fix: other statements in the branch may be meant for one rank only.

## When to suppress it
Where the other ranks call the same collective in another branch.

## References
- https://pytorch.org/docs/stable/distributed.fsdp.fully_shard.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import libcst as cst

from clipcheck.python.source import Source
from clipcheck.rule import Hit
from clipcheck.training.clips import clips
from clipcheck.training.guards import branches

BY_HAND = "call the clip on all ranks, and test the rank only to log its result"
_SHARDED = re.compile(r"\b(fully_shard|FullyShardedDataParallel|DTensor|distribute_tensor|parallelize_module)\b")
_ONE_RANK = re.compile(
    r"\brank(\(\))?\s*==\s*0|\bget_rank\([^)]*\)\s*==\s*0|\bis_(main|master|rank_zero|local_main)\w*"
)


def check(source: Source) -> Iterator[Hit]:
    if not _SHARDED.search(source.text):
        return
    for call in _clipping(source):
        for branch, outcome in branches(source, call):
            test = source.code(branch.test)
            if outcome and _ONE_RANK.search(test) and " or " not in test and not test.startswith("not "):
                message = (
                    f"training hangs: all ranks must clip, but only one rank takes the branch on {source.where(branch)}"
                )
                yield Hit(call, message, None, BY_HAND, ((branch.test, "only one rank takes this branch"),))
                break


def _clipping(source: Source) -> Iterator[cst.Call]:
    for clip in clips(source):
        if clip.is_norm:
            yield clip.call
    for call in source.nodes(cst.Call):
        match call.func:
            case cst.Attribute(value=cst.Name(), attr=cst.Name("clip_grad_norm_")) if (
                source.qualified(call.func) is None
            ):
                yield call
