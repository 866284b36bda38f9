"""
## What it does
Finds every use of torch's `clip_grad_norm_` and `get_total_norm`, to move a project to the functions of
`clipcheck.runtime` with the same signatures.

## Why is this bad?
torch's functions are not wrong. They read the gradients three times and sum in the dtype of the gradients: the norm of
100 million float32 values on the CPU is off by 1%, and float16 gradients with a norm above 65,504 overflow and are all
set to zero. The runtime reads the gradients once if nothing has to be clipped, sums in float64, and handles sparse and
sharded gradients.

## Why is this rule opt-in?
It adds clipcheck to what the project needs to run, and torch's functions are right for most models.

## How to fix by hand
Change the import; the calls stay as they are:

```python
from clipcheck.runtime import clip_grad_norm_
```

## Fix safety
Safe: the runtime has the same contract as torch. For bfloat16 and float16 gradients the norm comes back in float32, with
more digits. Unsafe in a file that uses FSDP1. Nothing is reported with `--target torch`, which is for code that runs
without clipcheck.

## When to suppress it
Where a file has to run without clipcheck, or compares the two implementations.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html
"""

from __future__ import annotations

from collections.abc import Iterator

from clipcheck.fixes.swap import Swap, swapped
from clipcheck.python.source import Source
from clipcheck.rule import Hit

SWAPS = tuple(
    Swap(
        name,
        name,
        f"torch's `{name}` is less accurate than `clipcheck.runtime.{name}`",
        f"Use `clipcheck.runtime.{name}`",
    )
    for name in ("clip_grad_norm_", "get_total_norm")
)


def check(source: Source) -> Iterator[Hit]:
    if source.target == "torch":
        return
    for swap in SWAPS:
        yield from swapped(source, swap)
