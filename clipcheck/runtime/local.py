"""The norm and the scaling of the gradients in this process, in the fastest way that suits them."""

from __future__ import annotations

import functools
import importlib
import math
from types import ModuleType
from typing import TypeAlias

import torch
from torch import Tensor

from clipcheck.runtime import cpu, cpu_plan, plain
from clipcheck.runtime.gradients import distinct, is_compiling, ordinary, stored, values
from clipcheck.runtime.sections import Sections

# A norm computed on the host is a float; one computed on a device is a 0-dim tensor that the host has not read.
Norm: TypeAlias = float | Tensor
Groups: TypeAlias = dict[torch.device, list[list[Tensor]]]  # by device: gradients of one dtype together


def clip_on_cuda_(grads: list[Tensor], max_norm: float, norm_type: float, skips: bool = False) -> Tensor | None:
    """Clips gradients on one CUDA device in place and returns the norm before; otherwise returns None.

    Only for calls that nothing observes: see `is_observed`.
    """
    cuda = _cuda() if grads[0].is_cuda else None
    return cuda.clip_(grads, norm_type, max_norm, skips=skips) if cuda else None


def clip_joined_on_cuda_(
    grads: list[Tensor], max_norm: float, norm_type: float, sections: Sections, skips: bool = False
) -> Tensor | None:
    """Like `clip_on_cuda_`, with the norm over all processes: the sums of the sections are joined in between."""
    cuda = _kernels(grads)
    return cuda.clip_(grads, norm_type, max_norm, sections, skips) if cuda else None


def joined_norm_on_cuda(grads: list[Tensor], norm_type: float, sections: Sections) -> Tensor | None:
    """Returns the norm over all processes in float64; for other gradients exchanges nothing and returns None."""
    cuda = _kernels(grads)
    return cuda.norm(grads, norm_type, torch.float64, sections) if cuda else None


def clip_on_cpu_(grads: list[Tensor], max_norm: float, norm_type: float, skips: bool = False) -> Tensor | None:
    """Clips gradients on the CPU in place and returns the norm before; None, and nothing done, for others.

    Only for calls that nothing observes: see `is_observed`. For small models, calls beyond the two passes take
    noticeable time.
    """
    if norm_type == 0 or (plan := _plan_on_cpu(grads)) is None:
        return None
    groups = plan.groups(grads)
    total_norm = cpu.norm(groups, norm_type, plan.divisions)
    coefficient = max_norm / (total_norm + 1e-6)
    if 0 < coefficient < 1:
        cpu.scale_(groups, coefficient)
    elif not coefficient >= 1:
        scale_(grads, total_norm, max_norm, skips)
    return cpu.scalar(total_norm, plan.dtype)


def clip_(grads: list[Tensor], max_norm: float, norm_type: float, skips: bool = False) -> Norm:
    """Clips at least one gradient in place and returns the norm before: `norm`, then `scale_`."""
    if not is_observed() and (clipped := clip_on_cpu_(grads, max_norm, norm_type, skips)) is not None:
        return clipped
    total_norm = norm(grads, norm_type)
    scale_(grads, total_norm, max_norm, skips)
    return total_norm


def norm(grads: list[Tensor], norm_type: float, dtype: torch.dtype | None = torch.float64) -> Norm:
    """Returns the total norm of at least one gradient of any kind: a float if all of it was computed on the CPU.

    If a device computes it, it has the dtype `dtype`, by default that of `result_dtype`, or a wider one.
    """
    if cuda := _kernels(grads):
        total: Tensor | None = cuda.norm(grads, norm_type, dtype)
        if total is not None:
            return total
    if is_observed():
        return plain.norm(grads, norm_type)
    if norm_type != 0 and (plan := _plan_on_cpu(grads)):
        return cpu.norm(plan.groups(grads), norm_type, plan.divisions)
    if not ordinary(grads):
        grads = [values(grad) for grad in grads]
        if not ordinary(grads):
            return plain.norm(grads, norm_type)
    if norm_type == 0:
        return plain.norm(grads, norm_type)
    norms = [_device_norm(device, group, norm_type) for device, group in _by_device(grads).items()]
    if not any(isinstance(n, Tensor) for n in norms):
        return cpu.combined([float(n) for n in norms], norm_type)
    return norms[0] if len(norms) == 1 else _combined(norms, norm_type, grads[0].device)


def scale_(grads: list[Tensor], norm: Norm, max_norm: float, skips: bool = False) -> None:
    """Multiplies at least one gradient in place by `min(1, max_norm / (norm + 1e-6))`.

    If the host knows that the coefficient is 1, nothing is written; NaN is multiplied in, so that it spreads as in
    torch. With `skips`, a norm that is not finite zeroes the gradients instead.
    """
    on_device = isinstance(norm, Tensor) and norm.is_cuda
    if on_device and (cuda := _kernels(grads)) and cuda.scale_(grads, norm, max_norm, skips):
        return
    if skips:
        norm = _zeroed_if_nonfinite_(grads, norm)
    if is_observed():
        known = norm if isinstance(norm, Tensor) else torch.as_tensor(norm)
        plain.scale_(grads, plain.coefficient(known, max_norm))
        return
    if not isinstance(norm, Tensor) or norm.device.type == "cpu":
        coefficient = max_norm / (float(norm) + 1e-6)
        if coefficient >= 1:
            return
        if 0 < coefficient < 1 and (plan := _plan_on_cpu(grads)):
            cpu.scale_(plan.groups(grads), coefficient)
            return
        factor = torch.tensor(coefficient, dtype=torch.float64, device="cpu")
    else:
        factor = plain.coefficient(norm, max_norm)
    grads = distinct(grads)
    if not ordinary(grads):
        plain.scale_([stored(grad) for grad in grads], factor)
        return
    for groups in _by_device(grads).values():
        together = [grad for group in groups for grad in group]
        if on_device and (cuda := _kernels(together)) and cuda.scale_(together, norm, max_norm):
            continue
        for same_dtype in groups:
            plain.scale_group_(same_dtype, factor)


def _zeroed_if_nonfinite_(grads: list[Tensor], norm: Norm) -> Norm:
    """Zeroes gradients whose norm is not finite; returns the norm to scale by, which is then 0.

    A norm computed on a device stays there: each gradient is filled under a mask, even if there is nothing to fill.
    """
    if not isinstance(norm, Tensor) or (norm.device.type == "cpu" and not is_observed()):
        if is_finite(norm):
            return norm
        for grad in grads:
            stored(grad).zero_()
        return 0.0
    is_bad = ~norm.isfinite()
    for grad in grads:
        stored(grad).masked_fill_(is_bad.to(grad.device), 0)
    return torch.where(is_bad, 0.0, norm)


def as_tensor(norm: Norm, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns the norm as the 0-dim tensor that callers get."""
    if isinstance(norm, Tensor):
        return norm.to(device, dtype)
    return torch.full((), cpu.rounded(norm, dtype), dtype=dtype, device=device)


def is_finite(norm: Norm) -> bool:
    """Whether the norm is neither NaN nor infinite; this synchronizes with the device."""
    return math.isfinite(norm)


def result_dtype(tensors: list[Tensor]) -> torch.dtype:
    """The dtype of a norm: float64 if any gradient is double, else float32, also for bfloat16 and float16."""
    return torch.float64 if plain.DOUBLE & {t.dtype for t in tensors} else torch.float32


def check_foreach(grads: list[Tensor], foreach: bool | None) -> None:
    """Raises as torch does if `foreach=True` is not supported; otherwise the flag has no effect."""
    if foreach:
        for device in {grad.device for grad in grads}:
            if device.type not in plain.FOREACH:
                raise RuntimeError(f"foreach=True was passed, but can't use the foreach API on {device.type} tensors")


def _device_norm(device: torch.device, groups: list[list[Tensor]], norm_type: float) -> Norm:
    if device.type == "cpu" and _fast_on_cpu(groups):
        return cpu.norm(groups, norm_type)
    together = [grad for group in groups for grad in group]
    if cuda := _kernels(together):
        total: Tensor | None = cuda.norm(together, norm_type, torch.float64)
        if total is not None:
            return total
    return plain.norm(together, norm_type)


def _plan_on_cpu(grads: list[Tensor]) -> cpu_plan.Plan | None:
    return cpu_plan.plan_for(grads) if grads[0].is_cpu else None


def _fast_on_cpu(groups: list[list[Tensor]]) -> bool:
    return all(group[0].dtype in cpu_plan.FAST for group in groups)


def _combined(norms: list[Norm], norm_type: float, device: torch.device) -> Tensor:
    """The norm of the norms of several devices: the scalars are moved, not the gradients."""
    wide = torch.float64 if device.type in plain.HAS_FLOAT64 else torch.float32
    moved = [as_tensor(n, wide, device) for n in norms]
    total: Tensor = torch.linalg.vector_norm(torch.stack(moved), norm_type)
    return total


def _by_device(grads: list[Tensor]) -> Groups:
    """Groups ordinary tensors by device, then by dtype."""
    groups: Groups = {}
    for (device, _), (lists, _) in torch._C._group_tensors_by_device_and_dtype([grads], False).items():  # type: ignore[list-item]
        groups.setdefault(device, []).append(lists[0])  # type: ignore[arg-type]
    return groups


def is_observed() -> bool:
    """Whether torch.compile, a trace, a dispatch mode or a functorch transform is active: no value may be read."""
    if is_compiling() or torch._C._get_tracing_state() is not None:
        return True
    return torch._C._len_torch_dispatch_stack() > 0 or torch._C._functorch.peek_interpreter_stack() is not None


def _kernels(grads: list[Tensor]) -> ModuleType | None:
    """The CUDA functions if the first gradient is on CUDA; they return None for what they do not support."""
    return _cuda() if grads[0].is_cuda and not is_observed() else None


@functools.cache
def _cuda() -> ModuleType | None:
    """The Triton kernels, or None if Triton is not installed (torch for Windows comes without it)."""
    try:
        return importlib.import_module(".cuda", __package__)
    except ImportError:
        return None
