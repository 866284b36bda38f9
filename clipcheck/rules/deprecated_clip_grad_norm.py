"""
## What it does
Finds every way to reach `torch.nn.utils.clip_grad_norm`, the old name of `clip_grad_norm_`: calls, imports under any
alias, and references without a call. A branch for old versions of torch, whose other branch has the new name, is left
alone.

## Why is this bad?
Since torch 0.4 the name is a one-line alias that warns (`FutureWarning` since 2.4) and calls `clip_grad_norm_`. Many
tutorials claim that it leaves the gradients unchanged and returns the norm after clipping. It does neither: it scales
the gradients **in place** and returns the norm **before** clipping.

If you want clipped copies, `clipcheck.runtime.clipped_grads(parameters, max_norm)` returns them together with the norm
before and after clipping, and does not change `.grad`.

## How to fix by hand
Add the underscore, in the import and in every call:

```python
torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm)
```

## Fix safety
Safe: both names have been the same function since 0.4. With `--target clipcheck` the call goes to
`clipcheck.runtime.clip_grad_norm_`, which has the same contract as torch's and returns the norm in float32 or higher
precision. The fix is unsafe in a file that uses FSDP1, where the runtime asks you to call the wrapped model's own method.
No automatic fix is offered if the old name is in one branch of a version check, replaces another function, or is exported.

## When to suppress it
In code that has to run on torch before 0.4, or in a test of the alias itself.

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
    "`clip_grad_norm` is a deprecated alias that clips in place: call `clip_grad_norm_`",
    "Replace with `clip_grad_norm_`",
    "for clipped copies that do not change `.grad`, use `clipcheck.runtime.clipped_grads`",
)


def check(source: Source) -> Iterator[Hit]:
    yield from swapped(source, SWAP)
