"""The clip of DTensors on CUDA whose `_spec` objects are those of an earlier call.

The `_spec` of a DTensor says how it is laid out. FSDP2 gives the gradients of each step the same objects, so comparing
these replaces the inspection of meshes, placements and groups, which for 580 parameters takes as long as the kernels.
"""

from __future__ import annotations

import atexit
from operator import is_
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clipcheck.runtime import exchange, local
from clipcheck.runtime.gradients import is_compiling
from clipcheck.runtime.spread import Spread, are_listed

KEPT = 8  # lists of DTensors, the most recently used


class _Met(NamedTuple):
    specs: list[Any]  # of the gradients, which are likelier to differ, then of the parameters
    how: Spread


_met: tuple[_Met, ...] = ()  # last used first; replaced as a whole, so that threads need no lock


def remember(params: list[Any], grads: list[Any], how: Spread) -> None:
    """Keeps how parameters are spread: DTensors that all have gradients, none of them partial sums."""
    global _met
    try:
        specs = [each._spec for each in (*grads, *params)]
    except AttributeError:  # None, or not a DTensor
        return
    if how.is_aligned and not how.groups:
        _met = (_Met(specs, how), *_met[: KEPT - 1])


def clip_(params: list[Any], max_norm: float, norm_type: float, skips: bool) -> Tensor | None:
    """Clips the gradients of parameters as `sharded.clip_`; returns None, without doing anything, for unknown specs."""
    if not _met or is_compiling() or norm_type not in exchange.BY_SUMS:
        return None
    try:
        grads = [p.grad for p in params]
        specs = [grad._spec for grad in grads]
        specs += [each._spec for each in params]
        parts = [grad._local_tensor for grad in grads]
    except AttributeError:
        return None
    how = _how(specs)
    if how is None:
        return None
    with torch.no_grad():
        return local.clip_joined_on_cuda_(parts, max_norm, norm_type, exchange.sections_of(how, norm_type), skips)


def _how(specs: list[Any]) -> Spread | None:
    global _met
    known = _met
    for at, met in enumerate(known):
        if len(met.specs) == len(specs) and all(map(is_, met.specs, specs)):
            if at:
                _met = (met, *known[:at], *known[at + 1 :])
            return met.how if are_listed(met.how) else None
    return None


def _forget() -> None:
    global _met
    _met = ()


atexit.register(_forget)  # a process group that outlives the interpreter may abort the process
