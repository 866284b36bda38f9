"""Combines the sums and norms of sections of gradients over processes: one small all-reduce per process group.

For the norms of order 1, 2 and inf each rank sends sums of powers, or the largest element. The powers of other orders
could overflow float64, so an extra all-reduce first finds the largest norm, by which all are divided.

Every function is a collective: all ranks of a group call it with the same number of sections in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from clipcheck.runtime.sections import Sections
from clipcheck.runtime.spread import Exchange, ProcessGroup, Spread

BY_SUMS = frozenset({1.0, 2.0, math.inf})  # orders whose powers of float32 values cannot overflow float64


def sections_of(how: Spread, norm_type: float, section_of: list[int] | None = None) -> Sections:
    """Returns the sections of tensors that are spread so, or of some of them, and how their sums are joined."""
    return Sections(
        how.section_of if section_of is None else section_of,
        how.sections,
        lambda sums: joined_sums(sums, norm_type, how),
    )


def sums_of(norms: Tensor, norm_type: float) -> Tensor:
    """Returns what ranks send for norms of an order in `BY_SUMS`: their powers, or absolute values."""
    return norms.abs() if math.isinf(norm_type) else norms**norm_type


def norm_of(sums: Tensor, norm_type: float) -> Tensor:
    """Returns the norm of such sums, 0-dim."""
    if math.isinf(norm_type):
        return sums.max()
    return sums.sum() if norm_type == 1 else sums.sum().sqrt()


def joined_sums(sums: Tensor, norm_type: float, how: Spread) -> Tensor:
    """Returns sums over all processes whose norm is the total norm; `values`, one per section here, may be overwritten.

    They are float64, 1-D. The maximum is taken of their bits as integers, which keep the order and put NaN on top; a
    maximum of floats may drop NaN.
    """
    largest = math.isinf(norm_type)
    op = dist.ReduceOp.MAX if largest else dist.ReduceOp.SUM
    values = sums.view(torch.int64) if largest else sums
    for exchange in how.exchanges:
        _in_sections(values, exchange, lambda sent, group: _all_reduced(sent, op, group))
    if how.groups and values.numel() > 1:  # another stage may have other sections
        values = values.amax(0, keepdim=True) if largest else values.sum(0, keepdim=True)
    for group in how.groups:
        values = _all_reduced(values, op, group)
    return values.view(torch.float64)


def joined_norms(norms: Tensor, norm_type: float, how: Spread) -> Tensor:
    """Returns the total norm, 0-dim, of an order that is neither 0 nor in `BY_SUMS`, from the norms of each section here.

    They are overwritten.
    """
    for exchange in how.exchanges:
        _in_sections(norms, exchange, lambda own, group: _norms_over(own, norm_type, group))
    dominant = norms.max() if norm_type > 0 else norms.min()
    total = dominant
    if not math.isinf(norm_type):
        total = _root(_powers(norms, dominant, norm_type).sum(), dominant, norm_type)
    for group in how.groups:
        total = _norms_over(total, norm_type, group)
    return total


def count_of_any(found: Tensor, how: Spread) -> Tensor:
    """Returns how many tensors are not all zero, 0-dim, from a 1 or 0 for each tensor here; may overwrite its input."""
    for exchange in how.exchanges:
        inside = {section for run in exchange.sections for section in range(run.start, run.stop)}
        members = [index for index, section in enumerate(how.section_of) if section in inside]
        found[members] = _all_reduced(found[members], dist.ReduceOp.MAX, exchange.group)
    total = found.sum()
    for group in how.groups:
        total = _all_reduced(total, dist.ReduceOp.SUM, group)
    return total


def device_of_nothing(how: Spread) -> torch.device:
    """Returns the device that the other ranks probably use, for a rank that holds no tensor.

    A group with two backends hangs if one rank sends from the CPU and another from a GPU.
    """
    for kind in (device.type for group in how.every_group for device in group._device_types):
        if kind != "cpu" and getattr(torch, kind).is_initialized():
            return torch.device(kind, getattr(torch, kind).current_device())
    return torch.device("cpu")


def _in_sections(values: Tensor, exchange: Exchange, joined: Callable[[Tensor, ProcessGroup], Tensor]) -> None:
    """Replaces this rank's values of the sections of an exchange by the joined ones."""
    parts = [values[run] for run in exchange.sections]
    sent = parts[0] if len(parts) == 1 else torch.cat(parts)
    got = joined(sent, exchange.group)
    if got is not parts[0]:
        for part, new in zip(parts, torch.split(got, [part.numel() for part in parts]), strict=True):
            part.copy_(new)


def _norms_over(norms: Tensor, norm_type: float, group: ProcessGroup) -> Tensor:
    """Combines each norm with those of the other ranks of the group."""
    if norm_type == -math.inf:
        return _smallest_over(norms, group)
    op = dist.ReduceOp.MAX if norm_type > 0 else dist.ReduceOp.MIN
    dominant = _all_reduced(norms.clone(), op, group)
    powers = _all_reduced(_powers(norms, dominant, norm_type), dist.ReduceOp.SUM, group)
    return _root(powers, dominant, norm_type)


def _smallest_over(norms: Tensor, group: ProcessGroup) -> Tensor:
    """The minimum. Some backends drop NaN, so whether there is one is sent as well, as -1."""
    nans = norms.isnan()
    sent = torch.stack([torch.where(nans, math.inf, norms), -nans.double()])
    values, signals = _all_reduced(sent, dist.ReduceOp.MIN, group).unbind()
    return torch.where(signals < 0, math.nan, values)


def _powers(norms: Tensor, dominant: Tensor, norm_type: float) -> Tensor:
    return (norms / _divisor(dominant)) ** norm_type


def _root(powers: Tensor, dominant: Tensor, norm_type: float) -> Tensor:
    return _divisor(dominant) * powers ** (1 / norm_type)


def _divisor(dominant: Tensor) -> Tensor:
    """What norms are divided by before powers are taken: the dominant one, or 1 if that is 0 or not finite."""
    return torch.where((dominant > 0) & dominant.isfinite(), dominant, 1.0)


def _all_reduced(values: Tensor, op: Any, group: ProcessGroup) -> Tensor:
    """All-reduces in place, or on a device that the group supports: NCCL runs may offload gradients to the CPU."""
    sent = values.to(_device_for(group, values.device))
    dist.all_reduce(sent, op=op, group=group)
    return sent.to(values.device)


def _device_for(group: ProcessGroup, device: torch.device) -> torch.device:
    """Returns a device whose tensors the group can reduce: `device` itself if it can."""
    able = [d.type for d in group._device_types]
    if device.type in able or not able:
        return device
    return torch.device("cpu") if able[0] == "cpu" else torch.device(able[0], getattr(torch, able[0]).current_device())
