"""
## What it does
Finds every way to reach `torch.nn.utils.clip_grad_norm`, the old name of `clip_grad_norm_`: calls, imports under any
alias, and references without a call.

## Why is this bad?
Since torch 0.4 the name is a one-line alias that warns (`FutureWarning` since 2.4) and calls `clip_grad_norm_`. Many
documents say that it leaves the gradients alone and returns the norm of the clipped ones. It does neither: it scales
the gradients **in place** and returns the norm **before** clipping.

If clipped copies are what you want, `clipcheck.runtime.clipped_grads(parameters, max_norm)` returns them, with the norm
before and after, and leaves `.grad` alone.

## Fix safety
Safe: the alias and the function have been the same since 0.4. With `--target clipcheck` the call goes to
`clipcheck.runtime.clip_grad_norm_`, which keeps torch's contract and returns the norm in float32 at least. The fix is
unsafe in a file that uses FSDP1, where the runtime asks for the method of the wrapped model. No fix is offered where
the old name stands in one branch of a version test, replaces another function, or is exported.

## References
- https://pytorch.org/docs/stable/generated/torch.nn.utils.clip_grad_norm_.html
- pytorch/examples#345, NVIDIA/tacotron2#90, yunjey/pytorch-tutorial#143
"""

from __future__ import annotations

from collections.abc import Iterator

from clipcheck.fixes.swap import Swap, swapped
from clipcheck.python.source import Source
from clipcheck.rule import Hit

SWAP = Swap(
    "clip_grad_norm",
    "clip_grad_norm_",
    "`clip_grad_norm` is a deprecated alias: it clips in place, returns the norm before clipping",
    "Replace with `clip_grad_norm_`",
    "for clipped copies that leave `.grad` alone there is `clipcheck.runtime.clipped_grads`",
)


def check(source: Source) -> Iterator[Hit]:
    yield from swapped(source, SWAP)
