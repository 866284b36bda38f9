"""The total norm of gradients that are spread over processes: DTensors on any meshes, pipeline stages, experts.

Each rank takes the norm of its own elements, separately for each distinct set of process groups that the elements are
spread over. Then there is one small all-reduce a process group, in order of first use; one more, of the largest norm,
for norm types whose powers could leave the range of float64. The order comes from the parameters, never from the
gradients: a rank where a gradient is None takes part in the same collectives.

What is replicated counts once; a gradient that is still a partial sum is reduced first.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from clipcheck.runtime import local
from clipcheck.runtime.gradients import no_subclass

ProcessGroup: TypeAlias = "dist.ProcessGroup"
ShardGroup: TypeAlias = "ProcessGroup | Callable[[Tensor], ProcessGroup | None]"


class Spread(NamedTuple):
    """How the tensors are spread: for each the process groups that hold its parts, and those that hold other tensors."""

    shards: list[tuple[ProcessGroup, ...]]  # one a tensor
    groups: tuple[ProcessGroup, ...]  # over which the whole sets are disjoint: pipeline stages


def spread(
    tensors: list[Tensor], group: ProcessGroup | Iterable[ProcessGroup] | None, shard_group: ShardGroup | None
) -> Spread | None:
    """Returns how parameters (or gradients) are spread over processes; None if all is in this process.

    Raises a `RuntimeError` for parameters of FSDP1, whose parts do not show what they are parts of.
    """
    if group is None and shard_group is None:
        refuse_fsdp1(tensors)
        if no_subclass(tensors) or not any(map(is_dtensor, tensors)):
            return None
    match group:
        case None:
            groups: tuple[ProcessGroup, ...] = ()
        case dist.ProcessGroup():
            groups = (group,)
        case _:
            groups = tuple(group)
    return Spread(_one_for_equal([_shard_groups(tensor, shard_group) for tensor in tensors]), groups)


def norm(tensors: list[Tensor], grads: list[Tensor | None], norm_type: float, how: Spread) -> Tensor:
    """Returns the global norm, the same on every rank, as a 0-dim float64 tensor on the collectives' device.

    `tensors` are what `how` was made from, `grads` are the gradients in the same order. A collective call: every rank
    of the groups must make it, with the same list of tensors.
    """
    device = tensors[0].device if tensors else _device_of_nothing(how.groups)
    if norm_type == 0:
        return _count_not_zero(tensors, grads, how, device)
    parts: dict[tuple[ProcessGroup, ...], list[Tensor]] = {groups: [] for groups in how.shards}
    for tensor, grad, groups in zip(tensors, grads, how.shards, strict=True):
        if grad is not None:
            parts[groups].append(local_values(grad, tensor))
    join = _Join(norm_type)
    keys = list(parts)
    norms = torch.stack([join.within(parts[key], device) for key in keys]) if keys else join.nothing(device)
    for group in _distinct(keys):
        members = [index for index, key in enumerate(keys) if group in key]
        norms[members] = join.over(group, norms[members])
    total = join.all_of(norms)
    for group in how.groups:
        total = join.over(group, total)
    return total


def _count_not_zero(tensors: list[Tensor], grads: list[Tensor | None], how: Spread, device: torch.device) -> Tensor:
    """The 0-norm as torch defines it for a list: the number of whole gradients that are not all zero."""
    found = torch.zeros(len(tensors), dtype=torch.float64, device=device)
    for index, (tensor, grad) in enumerate(zip(tensors, grads, strict=True)):
        if grad is not None:
            found[index] = local_values(grad, tensor).any()
    for group in _distinct(how.shards):
        members = [index for index, groups in enumerate(how.shards) if group in groups]
        found[members] = _all_reduce(found[members], dist.ReduceOp.MAX, group)
    total = found.sum()
    for group in how.groups:
        total = _all_reduce(total, dist.ReduceOp.SUM, group)
    return total


class _Join:
    """Norms of one order: within this process, and joined over parts and over processes, in any order."""

    def __init__(self, norm_type: float) -> None:
        self.p = norm_type
        self.infinite = norm_type in (float("inf"), float("-inf"))
        self.of_nothing = 0.0 if norm_type > 0 else float("inf")
        self.dominant = dist.ReduceOp.MAX if norm_type > 0 else dist.ReduceOp.MIN

    def nothing(self, device: torch.device) -> Tensor:
        return torch.full((1,), self.of_nothing, dtype=torch.float64, device=device)

    def within(self, grads: list[Tensor], device: torch.device) -> Tensor:
        grads = [grad for grad in grads if grad.numel()]
        if not grads:
            return self.nothing(device)[0]
        return local.as_tensor(local.norm(grads, self.p), torch.float64, device)

    def all_of(self, norms: Tensor) -> Tensor:
        dominant = norms.max() if self.p > 0 else norms.min()
        return dominant if self.infinite else self._root(self._powers(norms, dominant).sum(), dominant)

    def over(self, group: ProcessGroup, norms: Tensor) -> Tensor:
        """Joins each norm with those of the group's other ranks."""
        if self.infinite:
            return self._dominant_over(group, norms)
        # Powers of order 1 and 2 stay in the range of float64 for what comes from float32.
        dominant = torch.ones_like(norms) if self.p in (1, 2) else _all_reduce(norms, self.dominant, group)
        return self._root(_all_reduce(self._powers(norms, dominant), dist.ReduceOp.SUM, group), dominant)

    def _powers(self, norms: Tensor, dominant: Tensor) -> Tensor:
        return (norms / _divisor(dominant)) ** self.p

    def _root(self, powers: Tensor, dominant: Tensor) -> Tensor:
        return _divisor(dominant) * powers ** (1 / self.p)

    def _dominant_over(self, group: ProcessGroup, norms: Tensor) -> Tensor:
        """The maximum or minimum. It may drop NaN, depending on the backend, so NaN is sent as a count beside it."""
        nans = norms.isnan()
        sign = 1.0 if self.p > 0 else -1.0
        sent = torch.stack([torch.where(nans, self.of_nothing, norms), sign * nans])
        values, signals = _all_reduce(sent, self.dominant, group).unbind()
        return torch.where(signals == sign, float("nan"), values)


def _divisor(dominant: Tensor) -> Tensor:
    """What norms are divided by before a power is taken: the dominant one, or 1 where that is 0 or not finite."""
    return torch.where((dominant > 0) & dominant.isfinite(), dominant, 1.0)


def _all_reduce(values: Tensor, op: Any, group: ProcessGroup) -> Tensor:
    """All-reduces a copy, on a device where the group can: gradients may be offloaded to the CPU under NCCL."""
    sent = values.to(_device_for(group, values.device)).clone()
    dist.all_reduce(sent, op=op, group=group)
    return sent.to(values.device)


def _distinct(keys: Iterable[tuple[ProcessGroup, ...]]) -> Iterable[ProcessGroup]:
    """The process groups in order of first use."""
    return dict.fromkeys(group for key in keys for group in key)


def is_dtensor(tensor: Tensor) -> bool:
    """Whether it is a DTensor; loads nothing, since there is none before its module is loaded."""
    module = _dtensor_module()
    return module is not None and isinstance(tensor, module.DTensor)


def _dtensor_module() -> Any:
    """The module of DTensor and its placements, if it is loaded: private up to torch 2.4."""
    names = ("torch.distributed.tensor", "torch.distributed._tensor")
    return next((sys.modules[name] for name in names if hasattr(sys.modules.get(name), "DTensor")), None)


def local_values(grad: Any, tensor: Any) -> Tensor:
    """Returns this rank's part of a gradient, laid out as its parameter is; partial sums are reduced for that."""
    if not is_dtensor(grad):
        return grad  # type: ignore[no-any-return]
    like = tensor.placements if is_dtensor(tensor) and tensor.device_mesh == grad.device_mesh else grad.placements
    wanted = tuple(_whole(placement) for placement in like)
    if grad.placements != wanted:
        grad = grad.redistribute(placements=wanted)
    return local_storage(grad)


def local_storage(grad: Any) -> Tensor:
    """Returns the memory of this rank's part of a gradient: scaling it scales the gradient, partial sums too."""
    if not is_dtensor(grad):
        return grad  # type: ignore[no-any-return]
    part = grad._local_tensor
    return part.wait() if hasattr(part, "wait") else part  # type: ignore[no-any-return]


def plain(norm: Any) -> Any:
    """Returns a total norm as a plain tensor or number: torch's own norm of DTensors is a DTensor."""
    return norm.full_tensor() if is_dtensor(norm) else norm


def _whole(placement: Any) -> Any:
    return _dtensor_module().Replicate() if placement.is_partial() else placement


def _shard_groups(tensor: Any, shard_group: ShardGroup | None) -> tuple[ProcessGroup, ...]:
    """Returns the process groups whose ranks hold different parts of one tensor."""
    if is_dtensor(tensor):
        mesh = tensor.device_mesh
        if mesh.get_coordinate() is None:  # this rank holds nothing of it
            return ()
        split = [not (p.is_replicate() or p.is_partial()) for p in tensor.placements]
        get_group = getattr(mesh, "get_group", None) or mesh.get_dim_groups  # torch 2.2
        return tuple(get_group(dim) for dim, is_split in enumerate(split) if is_split and mesh.size(dim) > 1)
    group = shard_group(tensor) if callable(shard_group) else shard_group
    return () if group is None or group.size() == 1 else (group,)


def _one_for_equal(shards: list[tuple[ProcessGroup, ...]]) -> list[tuple[ProcessGroup, ...]]:
    """Puts the first group of the same ranks in the place of the others: each mesh may have made groups of its own."""
    first: dict[object, ProcessGroup] = {}
    same = {group: first.setdefault(_ranks(group), group) for group in _distinct(shards)}
    return [tuple(same[group] for group in groups) for groups in shards]


def _ranks(group: ProcessGroup) -> object:
    """The ranks of a group; of one that torch has no list for, as it may come from another library, the group itself."""
    try:
        return tuple(dist.get_process_group_ranks(group))
    except KeyError:
        return group


def _device_for(group: ProcessGroup, device: torch.device) -> torch.device:
    """Returns a device whose tensors the group can reduce: `device` itself if it can."""
    able = [d.type for d in group._device_types]
    if device.type in able or not able:
        return device
    return torch.device("cpu") if able[0] == "cpu" else torch.device(able[0], getattr(torch, able[0]).current_device())


def _device_of_nothing(groups: Iterable[ProcessGroup]) -> torch.device:
    """Returns the device that the other ranks of the groups likely compute on, for a rank that holds no tensor.

    A group of two backends waits for ever if one rank sends from the CPU and another from a GPU.
    """
    for kind in (device.type for group in groups for device in group._device_types):
        if kind != "cpu" and getattr(torch, kind).is_initialized():
            return torch.device(kind, getattr(torch, kind).current_device())
    return torch.device("cpu")


def refuse_fsdp1(tensors: list[Tensor]) -> None:
    if "torch.distributed.fsdp" not in sys.modules or not (dist.is_available() and dist.is_initialized()):
        return
    if any(getattr(t, "_fsdp_flattened", False) or getattr(t, "_is_flat_param", False) for t in tensors):
        raise RuntimeError(
            "parameters of FullyShardedDataParallel (FSDP1) are parts of flat ones: call `model.clip_grad_norm_()` on "
            "the wrapped model instead, or pass `shard_group`"
        )
