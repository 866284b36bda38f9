"""Over which process groups tensors are sharded, according to the tensors and to the caller's arguments.

All of it follows from meshes, placements and groups, so it is cached: the next call only checks that its tensors have
the same layout, and that torch still has the groups.
"""

from __future__ import annotations

import atexit
import itertools
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch.distributed as dist
from torch import Tensor

from clipcheck.runtime import dtensors
from clipcheck.runtime.gradients import uncompiled

ProcessGroup: TypeAlias = "dist.ProcessGroup"
Groups: TypeAlias = "tuple[ProcessGroup, ...]"
Group: TypeAlias = Any  # a ProcessGroup, or a DeviceMesh, which means the groups of all its dimensions
ShardGroup: TypeAlias = "Group | Callable[[Tensor], Group | None]"

_PACKAGE = __name__.rpartition(".")[0]  # differs if the runtime is vendored
PLANS = 64  # cached spreads, the most recently used
MANY = 8  # groups in `all_groups`: each exchanges 2^(groups - 1) sums


class Asked(NamedTuple):
    """The caller's arguments about the tensors, named as in the public functions."""

    group: Group | Iterable[Group] | None = None
    shard_group: ShardGroup | None = None
    all_groups: Group | Iterable[Group] | None = None


class Exchange(NamedTuple):
    """A process group, and the sections whose sums are joined over it."""

    group: ProcessGroup
    sections: tuple[slice, ...]


@dataclass(frozen=True, eq=False)
class Spread:
    """How a list of tensors is sharded over processes.

    Tensors that are sharded over the same groups form a section. First the sum of each section is joined over its
    groups, then the sum of all sections over `groups`.
    """

    placements: list[dtensors.Placements | None]  # one per tensor: under which its gradient is measured, if a DTensor
    section_of: list[int]  # one per tensor
    sections: int
    exchanges: tuple[Exchange, ...]  # in the same order on every rank
    groups: Groups  # whose ranks hold disjoint sets of tensors: pipeline stages
    is_aligned: bool  # whether every rank passes the same list of tensors; not with `all_groups`

    @property
    def every_group(self) -> Iterator[ProcessGroup]:
        return itertools.chain((exchange.group for exchange in self.exchanges), self.groups)


class _Seen(NamedTuple):
    """Everything that a spread depends on."""

    tensors: list[dtensors.Layout | Groups]  # one per tensor: the layout of a DTensor, the groups of any other
    groups: Groups
    all_groups: tuple[ProcessGroup | None, ...] | None


@dataclass(frozen=True, eq=False)
class _Plan:
    seen: _Seen
    spread: Spread
    listed: tuple[bool, ...]  # one per group: whether torch lists it, as it does until it is destroyed
    meshes: list[Any]  # kept alive, since a layout refers to its mesh by identity


_lock = threading.Lock()
_plans: list[_Plan] = []  # most recently used first
atexit.register(_plans.clear)  # a process group that outlives the interpreter may abort the process


def spread(tensors: list[Tensor], asked: Asked) -> Spread | None:
    """Returns how parameters (or gradients) are sharded over processes; None if everything is in this process.

    Raises a `RuntimeError` for parameters of FSDP1, whose shards do not show what they are parts of, and a `ValueError`
    if `all_groups` lacks a group.
    """
    if asked.shard_group is None:
        refuse_fsdp1(tensors)
        if asked.group is None and asked.all_groups is None and not dtensors.any_dtensor(tensors):
            return None
    return _planned(tensors, asked)


@uncompiled
def _planned(tensors: list[Tensor], asked: Asked) -> Spread:
    """The spread of a plan that is still valid, or of a new one."""
    seen = _seen(tensors, asked)
    with _lock:
        for at, plan in enumerate(_plans):
            if plan.seen == seen and plan.listed == _listed(plan.spread):
                if at:
                    _plans.insert(0, _plans.pop(at))
                return plan.spread
    plan = _new_plan(tensors, seen)
    with _lock:
        _plans[PLANS - 1 :] = []
        _plans.insert(0, plan)
    return plan.spread


def refuse_fsdp1(tensors: list[Tensor]) -> None:
    if "torch.distributed.fsdp" not in sys.modules or not (dist.is_available() and dist.is_initialized()):
        return
    dtensor = dtensors.dtensor_class()  # views of flat parameters are not DTensors
    plain = (t for t in tensors if not isinstance(t, dtensor))
    flattened = (getattr(t, "_fsdp_flattened", False) or getattr(t, "_is_flat_param", False) for t in plain)
    if any(flattened) and not _called_by_fsdp1():
        raise RuntimeError(
            "parameters of FullyShardedDataParallel (FSDP1) are parts of flat ones: call `model.clip_grad_norm_()` on "
            "the wrapped model instead, or pass `shard_group`"
        )


def _called_by_fsdp1() -> bool:
    """Whether FSDP1 itself calls what it takes for torch's function: it does so only if nothing is sharded."""
    frame = sys._getframe(1)
    while outer := frame.f_back:
        frame = outer
        # `clipcheck.audit` may be in between: it forwards calls
        if not frame.f_globals.get("__name__", "").startswith((_PACKAGE, "clipcheck.audit")):
            return frame.f_globals.get("__name__") == "torch.distributed.fsdp.fully_sharded_data_parallel"
    return False


def _seen(tensors: list[Tensor], asked: Asked) -> _Seen:
    given = asked.shard_group
    same: Groups = () if callable(given) else _shared(given)
    groups_of = (lambda tensor: _shared(given(tensor))) if callable(given) else (lambda tensor: same)
    return _Seen(
        dtensors.layouts(tensors, groups_of),
        _shared(asked.group),
        None if asked.all_groups is None else tuple(_each(asked.all_groups)),
    )


def _new_plan(tensors: list[Tensor], seen: _Seen) -> _Plan:
    are_dtensors = list(map(dtensors.is_dtensor, tensors))
    shards: list[Any] = [
        _split_over(tensor) if is_dtensor else groups
        for tensor, is_dtensor, groups in zip(tensors, are_dtensors, seen.tensors, strict=True)
    ]
    if seen.all_groups is None:
        section_of, members = _sections_met(shards)
    else:
        section_of, members = _sections_of_all(shards, seen.all_groups)
    found = Spread(
        placements=[dtensors.wanted(t) if own else None for t, own in zip(tensors, are_dtensors, strict=True)],
        section_of=section_of,
        sections=max(1, len({*section_of}) if seen.all_groups is None else 2 ** len(seen.all_groups)),
        exchanges=tuple(Exchange(group, tuple(_runs(sections))) for group, sections in members),
        groups=seen.groups,
        is_aligned=seen.all_groups is None,
    )
    meshes = {id(mesh): mesh for t in tensors if (mesh := getattr(t, "device_mesh", None)) is not None}
    return _Plan(seen, found, _listed(found), [*meshes.values()])


def _sections_met(shards: list[Groups]) -> tuple[list[int], list[tuple[ProcessGroup, list[int]]]]:
    """Sections and groups in order of first use: the same on every rank of a group that has the same list."""
    shards = _one_for_equal(shards)
    keys = list(dict.fromkeys(shards))
    members = [
        (group, [index for index, key in enumerate(keys) if group in key])
        for group in dict.fromkeys(group for key in keys for group in key)
    ]
    return [keys.index(shard) for shard in shards], members


def _sections_of_all(
    shards: list[Groups], all_groups: tuple[ProcessGroup | None, ...]
) -> tuple[list[int], list[tuple[ProcessGroup, list[int]]]]:
    """A section for every subset of the groups, even if this rank has no tensors in it; bit i is group i."""
    if len(all_groups) > MANY:
        raise ValueError(f"`all_groups` may hold up to {MANY} groups, got {len(all_groups)}")
    bit_of = {_ranks(group): 1 << at for at, group in enumerate(all_groups) if group is not None}
    section_of = []
    for groups in shards:
        ranks = [_ranks(group) for group in groups]
        if missing := [each for each in ranks if each not in bit_of]:
            raise ValueError(f"a parameter is spread over the process group {missing[0]}, which `all_groups` lacks")
        section_of.append(sum({bit_of[each] for each in ranks}))
    sections = range(2 ** len(all_groups))
    return section_of, [
        (group, [section for section in sections if section >> at & 1])
        for at, group in enumerate(all_groups)
        if group is not None and group.size() > 1
    ]


def _runs(sections: list[int]) -> Iterator[slice]:
    """Sections as slices, since indexing single ones would copy their indices to the device."""
    for _, run in itertools.groupby(enumerate(sections), lambda pair: pair[1] - pair[0]):
        indices = [section for _, section in run]
        yield slice(indices[0], indices[-1] + 1)


def _split_over(tensor: Any) -> Groups:
    """Returns the process groups whose ranks hold different parts of a DTensor."""
    mesh = tensor.device_mesh
    if mesh.get_coordinate() is None:  # this rank holds nothing of it
        return ()
    split = [not (p.is_replicate() or p.is_partial()) for p in tensor.placements]
    return tuple(_dimension(mesh, dim) for dim, is_split in enumerate(split) if is_split and mesh.size(dim) > 1)


def _shared(given: Group | Iterable[Group] | None) -> Groups:
    """Returns the process groups that a caller names, without those that contain only this rank."""
    return tuple(group for group in _each(given) if group is not None and group.size() > 1)


def _each(given: Group | Iterable[Group] | None) -> Iterator[ProcessGroup | None]:
    """Yields the groups of a group, a mesh or several; None for one that this rank is not in."""
    if given is None:
        return
    one_or_several: Any = given
    is_one = _is_group(given) or not isinstance(given, Iterable) or isinstance(given, str)
    for each in (one_or_several,) if is_one else one_or_several:
        if isinstance(each, dist.ProcessGroup):
            yield each
        elif not _is_group(each):
            kind = type(each).__name__
            raise TypeError(f"expected a process group, a device mesh or several of them, got `{kind}`")
        elif each == dist.GroupMember.NON_GROUP_MEMBER or each.get_coordinate() is None:
            yield from [None] * getattr(each, "ndim", 1)
        else:
            yield from (_dimension(each, dim) for dim in range(each.ndim))


def _is_group(given: object) -> bool:
    """Whether it is a process group, what `new_group` returns on ranks outside the group, or a device mesh."""
    is_group = isinstance(given, dist.ProcessGroup) or given == dist.GroupMember.NON_GROUP_MEMBER
    return is_group or hasattr(given, "get_coordinate")


def _dimension(mesh: Any, dim: int) -> ProcessGroup:
    get_group = getattr(mesh, "get_group", None) or mesh.get_dim_groups  # torch 2.2
    group: ProcessGroup = get_group(dim)
    return group


def _one_for_equal(shards: list[Groups]) -> list[Groups]:
    """Replaces groups with the same ranks by the first of them: each mesh may have created its own."""
    first: dict[object, ProcessGroup] = {}
    same = {group: first.setdefault(_ranks(group), group) for groups in shards for group in groups}
    return [tuple(same[group] for group in groups) for groups in shards]


def _ranks(group: ProcessGroup) -> object:
    """The ranks of a group, or the group itself if torch does not list it: it may come from another library."""
    try:
        return tuple(dist.get_process_group_ranks(group))
    except KeyError:
        return group


def are_listed(how: Spread) -> bool:
    """Whether torch has a list of the ranks of every group, as of those of meshes until they are destroyed."""
    return all(_listed(how))


def _listed(how: Spread) -> tuple[bool, ...]:
    return tuple(map(_is_listed, how.every_group))


def _is_listed(group: ProcessGroup) -> bool:
    """Whether torch lists the group's ranks: not if it was destroyed or if another library made it."""
    try:
        dist.get_backend(group)
    except Exception:  # what it raises depends on the version
        return False
    return True
