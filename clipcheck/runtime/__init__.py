"""Gradient clipping that is faster and more accurate than torch's, and correct however the gradients are sharded.

`clip_grad_norm_`, `get_total_norm` and `clip_grads_with_norm_` replace the functions of the same names in
`torch.nn.utils`: same arguments, same results or more accurate ones. Differences from torch: `docs/runtime.md`.
"""

from __future__ import annotations

from clipcheck.runtime.clip import (
    Clipped,
    clip_grad_norm_,
    clip_grads_with_norm_,
    clipped_grads,
    get_total_norm,
    grad_norm,
)

__all__ = [
    "Clipped",
    "clip_grad_norm_",
    "clip_grads_with_norm_",
    "clipped_grads",
    "get_total_norm",
    "grad_norm",
]
