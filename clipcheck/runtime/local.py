"""The norm and the scaling of the gradients that live in this process, by the fastest way right for them."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from clipcheck.runtime import cpu, plain
from clipcheck.runtime.gradients import distinct, ordinary, stored, values

_DOUBLE = frozenset({torch.float64, torch.complex128})
_FAST_ON_CPU = frozenset(
    {torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128}
)
_FOREACH_DEVICES = frozenset({"cpu", "cuda", "xpu", "mtia", "privateuseone"})

# What a host computed is a float, what a device computed is a 0-dim tensor that the host has not looked at.
Norm = float | Tensor


def norm(grads: list[Tensor], norm_type: float) -> Norm:
    """Returns the total norm of at least one gradient of any kinds: a float if it was computed on the CPU."""
    if _tracing():
        return plain.norm(grads, norm_type)
    if not ordinary(grads):
        grads = [values(grad) for grad in grads]
    if norm_type != 0 and _all_on_cpu(grads) and ordinary(grads):
        return cpu.norm(grads, norm_type) if any(map(Tensor.numel, grads)) else 0.0
    return plain.norm(grads, norm_type)


def scale_(grads: list[Tensor], norm: Norm, max_norm: float) -> None:
    """Multiplies the gradients in place by `min(1, max_norm / (norm + 1e-6))`.

    A coefficient known on the host to be 1 writes nothing; NaN does, so that it spreads as in torch.
    """
    if isinstance(norm, Tensor) and (_tracing() or norm.device.type != "cpu" or not ordinary([norm])):
        plain.scale_(grads if _tracing() else [stored(g) for g in distinct(grads)], plain.coefficient(norm, max_norm))
        return
    coefficient = max_norm / (float(norm) + 1e-6)
    if coefficient >= 1:
        return
    grads = distinct(grads)
    if not ordinary(grads):
        grads = [stored(grad) for grad in grads]
    if _all_on_cpu(grads) and ordinary(grads):
        cpu.scale_(grads, coefficient)
    else:
        plain.scale_(grads, torch.tensor(coefficient, dtype=torch.float64, device="cpu"))


def as_tensor(norm: Norm, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns the norm as the 0-dim tensor that callers get."""
    if isinstance(norm, Tensor):
        return norm.to(device, dtype)
    return torch.tensor(norm, dtype=dtype, device=device)


def is_finite(norm: Norm) -> bool:
    """Whether the norm is neither NaN nor infinite; waits for the device."""
    return math.isfinite(norm)


def result_dtype(tensors: list[Tensor]) -> torch.dtype:
    """The dtype of a norm: float64 if any gradient is double, else float32, also for bfloat16 and float16."""
    return torch.float64 if _DOUBLE & {t.dtype for t in tensors} else torch.float32


def check_foreach(grads: list[Tensor], foreach: bool | None) -> None:
    """Raises as torch does when `foreach=True` cannot be had; otherwise the flag changes nothing here."""
    if foreach:
        for device in {grad.device for grad in grads}:
            if device.type not in _FOREACH_DEVICES:
                raise RuntimeError(f"foreach=True was passed, but can't use the foreach API on {device.type} tensors")


def _all_on_cpu(grads: list[Tensor]) -> bool:
    return {grad.is_cpu for grad in grads} == {True} and {grad.dtype for grad in grads} <= _FAST_ON_CPU


def _tracing() -> bool:
    """Whether torch.compile, a dispatch mode or a functorch transform looks on: no value may reach the host then."""
    if torch.compiler.is_compiling():
        return True
    return torch._C._len_torch_dispatch_stack() > 0 or torch._C._functorch.peek_interpreter_stack() is not None
