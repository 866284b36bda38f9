"""The clip on CUDA in two launches (Triton): one read of the gradients, and a second pass only if something is clipped.

1. *Sum*: a fixed number of programs stride over the chunks of all gradients; each writes one float64 partial sum.
2. *Scale*: every program reduces all partial sums in the same order, so all agree without atomics and the result is
   bitwise repeatable; the first one writes the norm. If the coefficient is 1 the program ends; otherwise it multiplies
   its chunks, last ones first, because those are still in the L2 cache.

The norm alone takes one launch, or two for more than 10^8 elements, where that is faster. float64 accumulators keep
squares of 1e30 and 1e-30 in range. If gradients are sharded over processes, a small launch between the two adds up the
partial sums of each section, and the exchanged sums replace the partial ones.

The host never synchronizes, and its own time matters: 2,000 small gradients take it longer than the GPU.
"""

from __future__ import annotations

import contextlib
import math
import struct
import threading
from collections.abc import Mapping
from typing import Any

import torch
import triton
from torch import Tensor

from clipcheck.runtime.cuda_plan import CHUNK, Feed, Key, Plan, feed_for, plan_for
from clipcheck.runtime.kernels import join_kernel, norm_kernel, scale_kernel, sum_kernel
from clipcheck.runtime.sections import Sections

NORM_TYPES = frozenset({1.0, 2.0, math.inf})  # others use torch's foreach functions

BLOCK = 2_048  # elements that a program loads at once
SUM_WARPS, SCALE_WARPS = 8, 4  # warps per program; tuned on an H100
MANY = 16_384  # chunks above which the norm takes two launches: for 13 GB one kernel takes 5.5 ms, the sum 5.0 ms
TAKES_CONSTANTS = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 6)  # compiled kernels expect constants, too

_lock = threading.Lock()  # a feed is written and launched by one thread at a time


def clip_(
    grads: list[Tensor], norm_type: float, max_norm: float, sections: Sections | None = None, skips: bool = False
) -> Tensor | None:
    """Clips gradients in place and returns their norm, 0-dim; if the kernels cannot, does nothing and returns None.

    There is at least one gradient, and all are on one device. The norm is float64 if any gradient is double, else
    float32. With `skips`, a norm that is not finite zeroes the gradients.
    """
    with _lock, _on(grads[0].device):
        if (found := _found(grads, norm_type, sections)) is None:
            return None
        plan, feed = found
        norm = torch.empty((), dtype=plan.dtype, device=plan.device)
        _sum(plan, feed, norm_type)
        if sections is None:
            _scale(plan, feed, feed.partials, norm_type, max_norm, norm, skips=skips)
            return norm
        sums, addresses = _joined(plan, feed, norm_type), feed.addresses
    sums = sections.join(sums)  # without the lock: it may wait for other processes
    with _lock, _on(plan.device):
        if feed.addresses is not addresses:  # another thread has clipped other gradients with the same plan
            feed = feed_for(plan, grads) or feed
        _scale(plan, feed, sums, norm_type, max_norm, norm, skips=skips)
        return norm


def norm(
    grads: list[Tensor], norm_type: float, dtype: torch.dtype | None = None, sections: Sections | None = None
) -> Tensor | None:
    """Returns the norm of gradients, 0-dim, by default in the dtype of `clip_`; None if the kernels cannot."""
    with _lock, _on(grads[0].device):
        if (found := _found(grads, norm_type, sections)) is None:
            return None
        plan, feed = found
        norm = torch.empty((), dtype=dtype or plan.dtype, device=plan.device)
        if sections is None and sum(part.chunks for part in plan.parts) <= MANY:
            _sum_and_finish(plan, feed, norm_type, norm)
            return norm
        _sum(plan, feed, norm_type)
        sums = feed.partials if sections is None else _joined(plan, feed, norm_type)
        if sections is None:
            _scale(plan, feed, sums, norm_type, math.inf, norm, scales=False)
            return norm
    sums = sections.join(sums)
    with _lock, _on(plan.device):
        _scale(plan, feed, sums, norm_type, math.inf, norm, scales=False)
        return norm


def scale_(grads: list[Tensor], norm: Tensor, max_norm: float, skips: bool = False) -> bool:
    """Multiplies gradients by the coefficient of a known norm of one element; False if the kernels cannot."""
    with _lock, _on(grads[0].device):
        if (found := _found(grads, 2.0, None)) is None:
            return False
        plan, feed = found
        partial = norm.to(plan.device, torch.float64, non_blocking=True).view(1)
        _scale(plan, feed, partial, 1.0, max_norm, None, skips=skips)  # the 1-norm of the norm is the norm
        return True


def _found(grads: list[Tensor], norm_type: float, sections: Sections | None) -> tuple[Plan, Feed] | None:
    """The plan for the gradients and its feed; None if the kernels do not support the gradients or the norm type."""
    plan = plan_for(grads, sections) if norm_type in NORM_TYPES else None
    if plan is None or (plan.is_complex and norm_type != 2):
        return None
    feed = feed_for(plan, grads)
    return None if feed is None else (plan, feed)


def _sum(plan: Plan, feed: Feed, norm_type: float) -> None:
    """Launches the first kernel for each part that is summed."""
    first, order = 0, _order(norm_type)
    for index, part in enumerate(plan.parts):
        key = ("sum", index, order, None, 0)
        if part.sum_programs and not _launched_again(feed, key):
            fixed = feed.table, plan.sizes, part.tensor_of, part.start_of, feed.partials, part.chunks, first
            constants = {"DTYPE": part.dtype, "ORDER": order, "CHUNK": CHUNK, "BLOCK": BLOCK}
            _launch(feed, key, sum_kernel, part.sum_programs, SUM_WARPS, fixed, (), constants)
        first += part.sum_programs


def _joined(plan: Plan, feed: Feed, norm_type: float) -> Tensor:
    """Launches the kernel that adds up the partial sums of each section (for the inf norm, takes the maximum)."""
    sums = torch.empty(plan.sections, dtype=torch.float64, device=plan.device)
    order, lanes = _order(norm_type), _power_of_2(plan.programs)
    key = ("join", 0, order, None, lanes)
    if not _launched_again(feed, key, sums):
        constants = {"ORDER": order, "PARTIALS": lanes}
        _launch(feed, key, join_kernel, plan.sections, SCALE_WARPS, (feed.partials, plan.ends), (sums,), constants)
    return sums


def _sum_and_finish(plan: Plan, feed: Feed, norm_type: float, norm: Tensor) -> None:
    """Launches the kernel whose last program writes the norm."""
    first, order, lanes = 0, _order(norm_type), _power_of_2(plan.programs)
    for index, part in enumerate(plan.parts):
        key = ("norm", index, order, norm.dtype, lanes)
        if not _launched_again(feed, key, norm):
            fixed = (
                *(feed.table, plan.sizes, part.tensor_of, part.start_of, feed.partials),
                *(part.chunks, first, plan.programs, feed.arrived),
            )
            constants = {"DTYPE": part.dtype, "ORDER": order, "PARTIALS": lanes, "CHUNK": CHUNK, "BLOCK": BLOCK}
            _launch(feed, key, norm_kernel, part.sum_programs, SUM_WARPS, fixed, (norm,), constants)
        first += part.sum_programs


def _scale(
    plan: Plan,
    feed: Feed,
    partials: Tensor,
    norm_type: float,
    max_norm: float,
    norm: Tensor | None,
    *,
    scales: bool = True,
    skips: bool = False,
) -> None:
    """Launches the second kernel for each part; only the first launch writes the norm, and it may do nothing else."""
    high, rest = _halves(max_norm)
    order, count = _order(norm_type), partials.numel()
    lanes = _power_of_2(count)
    is_aligned = partials is feed.partials or partials.data_ptr() % 16 == 0
    name = "finish" if not scales else "skip" if skips else "scale"
    for index, part in enumerate(plan.parts if scales else plan.parts[:1]):
        key = (name, index, order, None if norm is None else norm.dtype, lanes) if is_aligned else None
        varying = partials, partials if norm is None else norm, high, rest, count
        if not _launched_again(feed, key, *varying):
            fixed = feed.table, plan.sizes, part.tensor_of, part.start_of, part.chunks if scales else 0
            constants = {
                "DTYPE": part.dtype,
                "ORDER": order,
                "PARTIALS": lanes,
                "WRITES_NORM": norm is not None,
                "SKIPS": skips,
                "CHUNK": CHUNK,
                "BLOCK": BLOCK,
            }
            programs = part.scale_programs if scales else 1
            _launch(feed, key, scale_kernel, programs, SCALE_WARPS, fixed, varying, constants)
        norm = None


def _launched_again(feed: Feed, key: Key | None, *varying: object) -> bool:
    """Launches the kernel stored under a key again, with new final arguments; False if there is none.

    It calls the compiled kernel directly: Triton would check again what the key already implies (dtypes, alignment,
    constants), and would ask the driver for the address of each table.
    """
    if key is None or (launch := feed.launches.get(key)) is None:
        return False
    try:
        launch(varying)
    except TypeError:  # raised before the launch: a future Triton may take other arguments
        feed.launches[key] = _refuse
        return False
    return True


def _launch(
    feed: Feed,
    key: Key | None,
    kernel: Any,
    programs: int,
    warps: int,
    fixed: tuple[object, ...],
    varying: tuple[object, ...],
    constants: Mapping[str, object],
) -> None:
    """Launches a kernel through Triton, which compiles it, and stores it to be launched again."""
    compiled = kernel[programs,](*fixed, *varying, **constants, num_warps=warps)
    if key is None or key in feed.launches or not TAKES_CONSTANTS or compiled is None:
        return
    try:
        run = compiled.run
        start = programs, 1, 1, feed.stream, compiled.function, compiled.packed_metadata, None, None, None
    except AttributeError:
        return
    known = *start, *(each.data_ptr() if isinstance(each, Tensor) else each for each in fixed)
    last = tuple(constants.values())
    feed.launches[key] = lambda varying: run(*known, *varying, *last)


def _refuse(varying: tuple[object, ...]) -> None:
    raise TypeError


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Makes a device the current one; most often it already is, and checking is cheaper than setting."""
    current = device.index == torch.cuda.current_device()
    return contextlib.nullcontext() if current else torch.cuda.device(device)


def _order(norm_type: float) -> int:
    return 0 if math.isinf(norm_type) else int(norm_type)


def _power_of_2(partials: int) -> int:
    # Of the widths tried, those below BLOCK were slow: by up to 45 % on 13 GB of bfloat16.
    return max(BLOCK, triton.next_power_of_2(partials))  # type: ignore[no-any-return]


def _halves(value: float) -> tuple[float, float]:
    """Splits a number into two float32 numbers, since Triton passes floats in that precision."""
    if not abs(value) < 3e38:
        return value, 0.0
    (high,) = struct.unpack("f", struct.pack("f", value))
    return high, value - high
