"""Gradient clipping that is more accurate than torch's, mostly faster, and correct however the gradients are sharded.

`clip_grad_norm_`, `get_total_norm` and `clip_grads_with_norm_` replace the functions of the same names in
`torch.nn.utils`: same arguments, same results or more accurate ones. `install()` puts them in torch's places, so that
frameworks call them too. Differences from torch: <https://clipcheck.github.io/clipcheck/runtime/>
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
from clipcheck.runtime.install import Installation, install, installed, uninstall

__all__ = [
    "Clipped",
    "Installation",
    "clip_grad_norm_",
    "clip_grads_with_norm_",
    "clipped_grads",
    "get_total_norm",
    "grad_norm",
    "install",
    "installed",
    "uninstall",
]
