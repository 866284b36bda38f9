"""The reference for every fast path: the total norm and the clip, straight from the formulas, in float64."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def total_norm(grads: Iterable[Tensor], norm_type: float = 2.0) -> float:
    """Returns `(Σ|g|^p)^(1/p)` over all elements of all gradients, each converted to float64 on the CPU.

    Values are divided by the largest one first, so that nothing overflows. As in torch, the 0-norm counts the
    gradients that are not all zero.
    """
    flat = [_double(grad).flatten().abs() for grad in grads]
    if norm_type == 0:
        return float(sum(bool(grad.any()) for grad in flat))
    elements = torch.cat(flat) if flat else torch.zeros(0, dtype=torch.float64)
    if not elements.numel():
        return 0.0
    largest = elements.max().item()
    if largest == 0 or largest != largest or largest == float("inf") or abs(norm_type) == float("inf"):
        return float(torch.linalg.vector_norm(elements, norm_type))
    return largest * float(torch.linalg.vector_norm(elements / largest, norm_type))


def coefficient(norm: float, max_norm: float) -> float:
    """Returns what the gradients are multiplied by: `min(1, max_norm / (norm + 1e-6))`, or NaN.

    The formula is that of `torch.nn.utils.clip_grads_with_norm_`.
    """
    scale = max_norm / (norm + 1e-6)
    return 1.0 if scale >= 1 else scale


def clipped(grads: Iterable[Tensor], max_norm: float, norm_type: float = 2.0) -> list[Tensor]:
    """Returns the clipped gradients, dense and in float64 (complex128 for complex ones), on the CPU."""
    grads = list(grads)
    scale = coefficient(total_norm(grads, norm_type), max_norm)
    return [_double(grad) if scale == 1.0 else _double(grad) * scale for grad in grads]


def _double(grad: Tensor) -> Tensor:
    dense = grad.detach().to_dense() if grad.layout != torch.strided else grad.detach()
    return dense.to("cpu", torch.complex128 if grad.is_complex() else torch.float64)
