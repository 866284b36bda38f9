"""The clip on CUDA in two launches (Triton): one read of the gradients, and a second pass only if something is clipped.

1. *Sum*: a fixed number of programs stride over chunks of all gradients; each leaves one float64 partial.
2. *Scale*: every program reduces all partials in the same order, so all agree without atomics and the result is
   bitwise repeatable; the first one writes the norm. A coefficient of 1 ends the program, otherwise it multiplies
   its chunks, last ones first: those are still in the L2 cache.

The host never waits. The tables that name the chunks depend on the gradients' sizes only and are kept; the addresses
are sent again when one has changed. float64 lanes keep squares of 1e30 and 1e-30 in range.
"""

from __future__ import annotations

import math
import struct
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
import triton
import triton.language as tl
from torch import Tensor

from clipcheck.runtime.kernels import scale_kernel, sum_kernel

NORM_TYPES = frozenset({1.0, 2.0, math.inf})  # the others go through torch's foreach functions

CHUNK = 8_192  # elements that a program takes at a time
BLOCK = 2_048  # elements that it loads at once
SUM_WARPS, SUM_PROGRAMS = 8, 4  # warps a program, programs a multiprocessor; tuned on an H100
SCALE_WARPS, SCALE_PROGRAMS = 4, 8
PLANS = 64  # plans kept: (sizes, dtype, stream) met last

_DTYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}
Groups: TypeAlias = list[list[Tensor]]  # gradients of one device, those of one dtype together

_data_ptr = torch._C.TensorBase.data_ptr
_numel = torch._C.TensorBase.numel
_is_contiguous = torch._C.TensorBase.is_contiguous


@dataclass(eq=False)
class Plan:
    """The tables of gradients of one device, one dtype and known sizes. All but `tables` never change."""

    device: torch.device
    dtype: torch.dtype
    processors: int
    chunks: int
    host_sizes: Tensor  # int64, one a gradient: its elements; on the CPU
    sizes: Tensor  # the same on the device
    tensor_of: Tensor  # int32, one a chunk: its gradient
    start_of: Tensor  # int64, one a chunk: its first element
    ready: torch.cuda.Event  # the constant tables are written
    tables: dict[int, tuple[Tensor, list[int]]]  # by stream: the addresses on the device, and as the host knows them
    spare: Tensor | None  # pinned memory no copy has read: a graph capture cannot allocate any


Launch: TypeAlias = tuple[Plan, Tensor]  # a group's plan and its addresses

_lock = threading.Lock()  # a plan's tables are written and launched by one thread at a time
_plans: OrderedDict[tuple[Any, ...], Plan] = OrderedDict()
_captured: list[object] = []  # what graphs read at each replay; the end of a graph cannot be observed


def clip_(groups: Groups, norm_type: float, max_norm: float) -> Tensor | None:
    """Clips gradients of one device in place and returns their norm; None if they are not for this way.

    The norm is float64 if any gradient is, else float32.
    """
    with _lock, torch.cuda.device(groups[0][0].device):
        launches = _prepared(groups, norm_type)
        if launches is None:
            return None
        partials = _sums(launches, norm_type)
        double = any(plan.dtype == torch.float64 for plan, _ in launches)
        norm = torch.empty((), dtype=torch.float64 if double else torch.float32, device=partials.device)
        for index, launch in enumerate(launches):
            _scale(launch, partials, norm_type, norm, max_norm, writes_norm=index == 0)
        return norm


def norm(groups: Groups, norm_type: float) -> Tensor | None:
    """Returns the norm of gradients of one device, 0-dim and float64; None if they are not for this way."""
    with _lock, torch.cuda.device(groups[0][0].device):
        launches = _prepared(groups, norm_type)
        if launches is None:
            return None
        partials = _sums(launches, norm_type)
        norm = torch.empty((), dtype=torch.float64, device=partials.device)
        _scale(launches[0], partials, norm_type, norm, math.inf, writes_norm=True, chunks=0)
        return norm


def scale_(groups: Groups, norm: Tensor, max_norm: float) -> bool:
    """Multiplies gradients of one device by the coefficient of a known norm; False if they are not for this way."""
    with _lock, torch.cuda.device(groups[0][0].device):
        launches = _prepared(groups, 1.0)
        if launches is None:
            return False
        partials = norm.to(groups[0][0].device, torch.float64, non_blocking=True).view(1)
        for launch in launches:
            _scale(launch, partials, 1.0, partials, max_norm, writes_norm=False)
        return True


def _prepared(groups: Groups, norm_type: float) -> list[Launch] | None:
    """Returns what to launch on, or None for what the kernels do not take: overlaps, gaps, other norms and dtypes."""
    if norm_type not in NORM_TYPES:
        return None
    launches: list[Launch] = []
    for group in groups:
        if group[0].is_complex():
            if norm_type != 2:
                return None
            group = [torch.view_as_real(grad.conj() if grad.is_conj() else grad) for grad in group]
        if group[0].dtype not in _DTYPES or not (all(map(_is_contiguous, group)) or all(map(_is_dense, group))):
            return None
        plan = _plan(group)
        table = _table(plan, list(map(_data_ptr, group))) if plan else None
        if plan is None or table is None:
            return None
        launches.append((plan, table))
    return launches


def _sums(launches: list[Launch], norm_type: float) -> Tensor:
    """Launches the first kernel for each group; returns the partials of all."""
    programs = [max(1, min(plan.chunks, plan.processors * SUM_PROGRAMS)) for plan, _ in launches]
    partials = torch.empty(sum(programs), dtype=torch.float64, device=launches[0][0].device)
    first = 0
    for (plan, table), count in zip(launches, programs, strict=True):
        sum_kernel[count,](
            table, plan.sizes, plan.tensor_of, plan.start_of, partials[first:] if first else partials, plan.chunks,
            DTYPE=_DTYPES[plan.dtype], ORDER=_order(norm_type), CHUNK=CHUNK, BLOCK=BLOCK, num_warps=SUM_WARPS,
        )  # fmt: skip
        first += count
    return partials


def _scale(
    launch: Launch,
    partials: Tensor,
    norm_type: float,
    norm: Tensor,
    max_norm: float,
    *,
    writes_norm: bool,
    chunks: int | None = None,
) -> None:
    """Launches the second kernel for one group; `chunks=0` finishes the norm and scales nothing."""
    # Launches with fewer PARTIALS than BLOCK were the slow ones of those tried, by up to 45 % on 13 GB of bfloat16.
    plan, table = launch
    chunks = plan.chunks if chunks is None else chunks
    high, rest = _halves(max_norm)
    scale_kernel[max(1, min(chunks, plan.processors * SCALE_PROGRAMS)),](
        table, plan.sizes, plan.tensor_of, plan.start_of, partials, norm, high, rest,
        chunks, partials.numel(),
        DTYPE=_DTYPES[plan.dtype], ORDER=_order(norm_type), PARTIALS=max(BLOCK, triton.next_power_of_2(partials.numel())),
        WRITES_NORM=writes_norm, CHUNK=CHUNK, BLOCK=BLOCK, num_warps=SCALE_WARPS,
    )  # fmt: skip


def _plan(grads: list[Tensor]) -> Plan | None:
    """Returns the plan for gradients of these sizes, a new one if need be; None for a new one under graph capture."""
    device, dtype = grads[0].device, grads[0].dtype
    sizes = tuple(map(_numel, grads))
    key = (device, dtype, sizes)
    plan = _plans.get(key)
    if plan is not None:
        _plans.move_to_end(key)
        return plan
    if torch.cuda.is_current_stream_capturing():
        return None
    plan = _plans[key] = _new_plan(device, dtype, sizes)
    if len(_plans) > PLANS:
        _plans.popitem(last=False)
    return plan


def _new_plan(device: torch.device, dtype: torch.dtype, sizes: tuple[int, ...]) -> Plan:
    elements = torch.tensor(sizes, dtype=torch.int64, device="cpu")
    chunks_of = (elements + (CHUNK - 1)) // CHUNK
    tensor_of = torch.repeat_interleave(torch.arange(len(sizes), device="cpu"), chunks_of)
    chunks = tensor_of.numel()
    first_of = chunks_of.cumsum(0) - chunks_of
    start_of = (torch.arange(chunks, device="cpu") - first_of[tensor_of]) * CHUNK
    plan = Plan(
        device=device,
        dtype=dtype,
        processors=torch.cuda.get_device_properties(device).multi_processor_count,
        chunks=chunks,
        host_sizes=elements,
        sizes=_sent(elements, device),
        tensor_of=_sent(tensor_of.int(), device),
        start_of=_sent(start_of, device),
        ready=torch.cuda.Event(),  # type: ignore[no-untyped-call]
        tables={},
        spare=None,
    )
    plan.ready.record()
    return plan


def _table(plan: Plan, addresses: list[int]) -> Tensor | None:
    """Returns the device's table of these addresses, sent if they are not those of the last call on this stream.

    None if two gradients overlap, since their chunks would race, or if a graph capture finds no pinned memory.
    """
    if torch.cuda.is_current_stream_capturing():
        return _captured_table(plan, addresses)
    if plan.spare is None:
        plan.spare = torch.empty(len(addresses), dtype=torch.int64, device="cpu", pin_memory=True)
    stream = torch.cuda.current_stream()
    table, known = plan.tables.get(stream.cuda_stream, (None, None))
    if known == addresses:
        return table
    host = torch.tensor(addresses, dtype=torch.int64, device="cpu")
    if _overlap(plan, host):
        return None
    pinned = host.pin_memory()  # torch's host allocator reuses this memory only after the copy has read it
    if table is None:
        stream.wait_event(plan.ready)
        for constant in (plan.sizes, plan.tensor_of, plan.start_of):
            constant.record_stream(stream)
        table = pinned.to(plan.device, non_blocking=True)
    else:
        table.copy_(pinned, non_blocking=True)
    plan.tables[stream.cuda_stream] = (table, addresses)
    return table


def _captured_table(plan: Plan, addresses: list[int]) -> Tensor | None:
    """Returns a table that belongs to the graph being captured: each replay sends the addresses of the capture."""
    host = torch.tensor(addresses, dtype=torch.int64, device="cpu")
    if plan.spare is None or _overlap(plan, host):
        return None
    pinned, plan.spare = plan.spare.copy_(host), None
    table = pinned.to(plan.device, non_blocking=True)
    _captured.append((plan, pinned, table))
    return table


def _overlap(plan: Plan, addresses: Tensor) -> bool:
    sizes = plan.host_sizes * plan.dtype.itemsize
    filled = sizes > 0
    start, order = addresses[filled].sort()
    end = start + sizes[filled][order]
    return bool((start[1:] < end[:-1]).any())


def _sent(host: Tensor, device: torch.device) -> Tensor:
    return host.pin_memory().to(device, non_blocking=True)


def _is_dense(grad: Tensor) -> bool:
    """Whether the elements fill a block of memory without gaps or overlaps, in whatever order."""
    return (
        grad.layout == torch.strided
        and grad.permute(sorted(range(grad.dim()), key=grad.stride, reverse=True)).is_contiguous()
    )


def _order(norm_type: float) -> int:
    return 0 if math.isinf(norm_type) else int(norm_type)


def _halves(value: float) -> tuple[float, float]:
    """Splits a number into two float32, since Triton passes floats in that precision."""
    if not abs(value) < 3e38:
        return value, 0.0
    (high,) = struct.unpack("f", struct.pack("f", value))
    return high, value - high
