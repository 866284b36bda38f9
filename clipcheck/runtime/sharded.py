"""The total norm and the clip of gradients that are sharded over processes: DTensors, pipeline stages, experts.

Each rank adds up its own elements, separately for each distinct set of process groups that they are sharded over. Then
there is one small all-reduce per process group. The groups and their order follow from the parameters, never from the
gradients: a rank where a gradient is None takes part in the same collectives.

What is replicated counts once; a gradient that is still a partial sum is reduced first.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from clipcheck.runtime import again, dtensors, exchange, local
from clipcheck.runtime.gradients import uncompiled
from clipcheck.runtime.sections import Sections
from clipcheck.runtime.spread import Spread

Counts = Callable[[Tensor], bool]


class _Held(NamedTuple):
    """This rank's parts of the gradients that are not None."""

    at: list[int]  # the indices of their tensors
    stored: list[Tensor]  # to be scaled
    values: list[Tensor]  # to be measured: the same list, except for partial sums
    sections: Sections
    device: torch.device  # of what is exchanged


@uncompiled
def norm(
    tensors: list[Tensor], grads: list[Tensor | None], norm_type: float, how: Spread, counts: Counts | None = None
) -> Tensor:
    """Returns the global norm, the same on every rank, as a 0-dim float64 tensor.

    `how` was made from `tensors`; `grads` are the gradients in the same order; `counts` says which of the tensors this
    rank counts. This is a collective call: every rank of the groups must make it, with the same list of tensors.
    """
    held = _held(tensors, grads, norm_type, how, counts)
    total = None
    if held.values and norm_type in exchange.BY_SUMS:
        total = local.joined_norm_on_cuda(held.values, norm_type, held.sections)
    return _norm(held, norm_type, how) if total is None else total


@uncompiled
def clip_(
    tensors: list[Tensor],
    grads: list[Tensor | None],
    max_norm: float,
    norm_type: float,
    how: Spread,
    counts: Counts | None = None,
    skips: bool = False,
) -> Tensor:
    """Clips the gradients in place and returns their global norm before: `norm` and scaling, inspecting them once."""
    held = _held(tensors, grads, norm_type, how, counts)
    if held.values and held.values is held.stored and norm_type in exchange.BY_SUMS:
        clipped = local.clip_joined_on_cuda_(held.values, max_norm, norm_type, held.sections, skips)
        if clipped is not None:
            if counts is None:
                again.remember(tensors, grads, how)
            return clipped
    total = _norm(held, norm_type, how)
    if held.stored:
        local.scale_(held.stored, total, max_norm, skips)
    return total


def _held(
    tensors: list[Tensor], grads: list[Tensor | None], norm_type: float, how: Spread, counts: Counts | None
) -> _Held:
    at = [index for index, grad in enumerate(grads) if grad is not None]
    section_of, placements = how.section_of, how.placements
    device = tensors[0].device if tensors else exchange.device_of_nothing(how)
    if len(at) < len(grads):
        tensors, grads = [tensors[index] for index in at], [grads[index] for index in at]
        section_of, placements = [section_of[index] for index in at], [placements[index] for index in at]
    if counts is not None:
        section_of = [own if counts(t) else how.sections for t, own in zip(tensors, section_of, strict=True)]
    sections = exchange.sections_of(how, norm_type, section_of)
    return _Held(at, *dtensors.parts(grads, tensors, placements), sections, device)


def _norm(held: _Held, norm_type: float, how: Spread) -> Tensor:
    """The global norm from the norm of each section here, however that is computed."""
    if norm_type == 0:
        return _count_not_zero(held, how)
    sections: list[list[Tensor]] = [[] for _ in range(how.sections + 1)]
    for value, section in zip(held.values, held.sections.of, strict=True):
        if value.numel():
            sections[section].append(value)
    of_nothing = 0.0 if norm_type > 0 else math.inf
    norms = [local.norm(values, norm_type) if values else of_nothing for values in sections[: how.sections]]
    if any(isinstance(each, Tensor) for each in norms):
        vector = torch.stack([local.as_tensor(each, torch.float64, held.device) for each in norms])
    else:
        vector = torch.tensor(norms, dtype=torch.float64, device=held.device)
    if norm_type not in exchange.BY_SUMS:
        return exchange.joined_norms(vector, norm_type, how)
    return exchange.norm_of(held.sections.join(exchange.sums_of(vector, norm_type)), norm_type)


def _count_not_zero(held: _Held, how: Spread) -> Tensor:
    """The 0-norm as torch defines it for a list: the number of whole gradients that are not all zero."""
    if not how.is_aligned:
        raise ValueError("the 0-norm counts gradients that every rank lists: it does not work with `all_groups`")
    found = torch.zeros(len(how.section_of), dtype=torch.float64, device=held.device)
    for index, value, section in zip(held.at, held.values, held.sections.of, strict=True):
        if section < how.sections:
            found[index] = value.any()
    return exchange.count_of_any(found, how)
