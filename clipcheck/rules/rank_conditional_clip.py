"""
## What it does
Finds clips of sharded parameters that only one rank reaches: under `if rank == 0:`, or after `if rank != 0: return`.

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

from clipcheck.python.literals import number
from clipcheck.python.names import last_name
from clipcheck.python.source import Source
from clipcheck.python.words import words
from clipcheck.rule import Hit
from clipcheck.training.clips import clips
from clipcheck.training.guards import conditions

BY_HAND = "call the clip on all ranks, and test the rank only to log its result"
_SHARDED = re.compile(r"\b(fully_shard|FullyShardedDataParallel|DTensor|distribute_tensor|parallelize_module)\b")
_MAIN = re.compile(r"is_(main|master|rank_zero|local_main)")


def check(source: Source) -> Iterator[Hit]:
    if not _SHARDED.search(source.text):
        return
    for call in _clipping(source):
        for branch, outcome in conditions(source, call):
            if _is_one_rank(source, branch.test, outcome):
                message = (
                    f"training hangs: all ranks must clip, but only one rank takes the branch on {source.where(branch)}"
                )
                yield Hit(call, message, None, BY_HAND, ((branch.test, "only one rank takes this branch"),))
                break


def _is_one_rank(source: Source, test: cst.BaseExpression, outcome: bool) -> bool:
    """Whether only one rank gets this outcome of a test: `rank == 0`, `not rank`, `is_main_process()`."""
    match test:
        case cst.UnaryOperation(operator=cst.Not(), expression=inner):
            return _is_one_rank(source, inner, not outcome)
        case cst.BooleanOperation(left=left, operator=operator, right=right):
            alone = isinstance(operator, cst.And) == outcome
            return alone and any(_is_one_rank(source, side, outcome) for side in (left, right))
        case cst.Comparison(left=left, comparisons=[cst.ComparisonTarget(operator=compared, comparator=right)]):
            return _is_rank(left) and _selects_zero(source, compared, right, outcome)
        case cst.Name() | cst.Attribute() | cst.Call():
            return (outcome and bool(_MAIN.match(last_name(test)))) or (not outcome and _is_rank(test))
    return False


def _is_rank(node: cst.BaseExpression) -> bool:
    return words(last_name(node))[-1:] == ("rank",)


def _selects_zero(source: Source, compared: cst.BaseCompOp, right: cst.BaseExpression, outcome: bool) -> bool:
    """Whether a comparison of a rank has this outcome only for rank 0, or for -1, which is the only process."""
    match compared, right:
        case cst.Equal() | cst.NotEqual(), _:
            return number(source, right) == 0 and isinstance(compared, cst.Equal) == outcome
        case cst.In() | cst.NotIn(), cst.List(elements=elements) | cst.Tuple(elements=elements):
            ranks = {number(source, element.value) for element in elements}
            return ranks == {-1.0, 0.0} and isinstance(compared, cst.In) == outcome
    return False


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
