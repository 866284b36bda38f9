"""
## What it does
Finds every use of torch's `clip_grad_norm_` and `get_total_norm`, to move a repository to the functions of
`clipcheck.runtime` that have the same signatures.

## Why is this bad?
It is not wrong. torch reads the gradients three times and adds in their dtype: the norm of 100 million float32 values on
the CPU is 1 % off, float16 gradients of norm above 65,504 overflow and are all set to zero. The runtime reads them once
where nothing is clipped, adds in float64 and handles sparse and sharded gradients.

## Fix safety
Safe: the contract is torch's. The norm of bfloat16 and float16 gradients comes back in float32, with more digits. Unsafe
in a file that uses FSDP1. Silent with `--target torch`, for code that runs where clipcheck is not installed.

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
        f"torch's `{name}` is slower and less exact than `clipcheck.runtime.{name}`",
        f"Use `clipcheck.runtime.{name}`",
    )
    for name in ("clip_grad_norm_", "get_total_norm")
)


def check(source: Source) -> Iterator[Hit]:
    if source.target == "torch":
        return
    for swap in SWAPS:
        yield from swapped(source, swap)
