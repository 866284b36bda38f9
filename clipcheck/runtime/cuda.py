"""The clip on CUDA in two launches (Triton): one read of the gradients, and a second pass only if something is clipped.

1. *Sum*: a fixed number of programs stride over chunks of all gradients; each leaves one float64 partial.
2. *Scale*: every program reduces all partials in the same order, so all agree without atomics and the result is
   bitwise repeatable; the first one writes the norm. A coefficient of 1 ends the program, otherwise it multiplies
   its chunks, last ones first: those are still in the L2 cache.

The norm alone takes one launch, or two for more than 10^8 elements, where that is faster. float64 lanes keep squares of
1e30 and 1e-30 in range.

The host never waits, and its time counts: 2,000 small gradients cost it more than the GPU. So what is known of a list of
gradients is kept as a plan, and the next call only makes sure that its gradients look the same. Their addresses are
compared, too, and sent again when one has changed.
"""

from __future__ import annotations

import contextlib
import math
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch
import triton
import triton.language as tl
from torch import Tensor

from clipcheck.runtime.gradients import distinct, ordinary
from clipcheck.runtime.kernels import norm_kernel, scale_kernel, sum_kernel

NORM_TYPES = frozenset({1.0, 2.0, math.inf})  # the others go through torch's foreach functions

CHUNK = 8_192  # elements that a program takes at a time
BLOCK = 2_048  # elements that it loads at once
SUM_WARPS, SUM_PROGRAMS = 8, 4  # warps a program, programs a multiprocessor; tuned on an H100
SCALE_WARPS, SCALE_PROGRAMS = 4, 8
MANY = 16_384  # chunks from which on the norm takes two launches: its one kernel reads 13 GB in 5.5 ms, the sum in 5.0
TAKES_CONSTANTS = tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 6)  # a compiled kernel, among the arguments
PLANS = 64  # plans kept: those of the lists met last

_REAL = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.complex64: tl.float32,
    torch.complex128: tl.float64,
}

_data_ptr = torch._C.TensorBase.data_ptr

# Which kernel, which part, order of the norm, dtype of the norm that it writes: with the plan, what it is compiled for.
Key: TypeAlias = tuple[str, int, int, torch.dtype | None]


class Part(NamedTuple):
    """The chunks of all gradients of one dtype; a complex element counts as two real ones."""

    dtype: tl.dtype
    chunks: int
    tensor_of: Tensor  # int32, one a chunk: the index of its gradient
    start_of: Tensor  # int64, one a chunk: its first element
    sum_programs: int
    scale_programs: int


@dataclass(eq=False)
class Feed:
    """What the launches of one plan on one stream read and write."""

    addresses: list[int]  # of the gradients, as the host knows them
    table: Tensor  # the same on the device
    partials: Tensor  # float64, one a program of the sum
    arrived: Tensor  # int32, 0 between launches: the programs of the norm that are done


@dataclass(eq=False)
class Plan:
    """All that follows from how a list of gradients looks: their number, classes, dtypes, shapes, strides, device."""

    looks_alike: Callable[..., bool]
    device: torch.device
    count: int  # of gradients
    bytes: Tensor  # int64, one a gradient; on the CPU
    sizes: Tensor  # int64, one a gradient: its elements
    parts: list[Part]
    programs: int  # of the sums of all parts
    is_complex: bool
    dtype: torch.dtype  # of the norm
    compiled: dict[Key, Any]  # the kernels that this plan has launched
    ready: torch.cuda.Event  # the tables above are written
    feeds: dict[int, Feed]  # by stream
    spare: tuple[Tensor, Tensor] | None  # pinned memory and a zero for a graph capture, which can make neither


_lock = threading.Lock()  # a feed is written and launched by one thread at a time
_plans: list[Plan] = []  # last used first
_captured: list[object] = []  # what graphs read at each replay; the end of a graph cannot be observed


def clip_(grads: list[Tensor], norm_type: float, max_norm: float) -> Tensor | None:
    """Clips gradients in place and returns their norm, 0-dim; None if they are not for this way.

    They are on one device, at least one of them. The norm is float64 if any gradient is double, else float32.
    """
    with _lock, _on(grads[0].device):
        plan = _plan(grads, norm_type)
        feed = _feed(plan, grads) if plan else None
        if plan is None or feed is None:
            return None
        norm = torch.empty((), dtype=plan.dtype, device=plan.device)
        _sum(plan, feed, norm_type)
        _scale(plan, feed, feed.partials, plan.programs, norm_type, max_norm, norm)
        return norm


def norm(grads: list[Tensor], norm_type: float, dtype: torch.dtype | None = None) -> Tensor | None:
    """Returns the norm of gradients, 0-dim, in the dtype of `clip_` or another; None if they are not for this way."""
    with _lock, _on(grads[0].device):
        plan = _plan(grads, norm_type)
        feed = _feed(plan, grads) if plan else None
        if plan is None or feed is None:
            return None
        norm = torch.empty((), dtype=dtype or plan.dtype, device=plan.device)
        if sum(part.chunks for part in plan.parts) > MANY:
            _sum(plan, feed, norm_type)
            _scale(plan, feed, feed.partials, plan.programs, norm_type, math.inf, norm, scales=False)
        else:
            _sum_and_finish(plan, feed, norm_type, norm)
        return norm


def scale_(grads: list[Tensor], norm: Tensor, max_norm: float) -> bool:
    """Multiplies gradients by the coefficient of a known norm of one element; False if they are not for this way."""
    with _lock, _on(grads[0].device):
        plan = _plan(grads, 2.0)
        feed = _feed(plan, grads) if plan else None
        if plan is None or feed is None:
            return False
        partial = norm.to(plan.device, torch.float64, non_blocking=True).view(1)
        _scale(plan, feed, partial, 1, 1.0, max_norm, None)  # the 1-norm of the norm is the norm
        return True


def _sum(plan: Plan, feed: Feed, norm_type: float) -> None:
    """Launches the first kernel for each dtype."""
    first, order = 0, _order(norm_type)
    for index, part in enumerate(plan.parts):
        _launch(
            plan, ("sum", index, order, None), sum_kernel, part.sum_programs, SUM_WARPS,
            feed.table, plan.sizes, part.tensor_of, part.start_of, feed.partials, part.chunks, first,
            DTYPE=part.dtype, ORDER=order, CHUNK=CHUNK, BLOCK=BLOCK,
        )  # fmt: skip
        first += part.sum_programs


def _sum_and_finish(plan: Plan, feed: Feed, norm_type: float, norm: Tensor) -> None:
    """Launches the kernel of which the last program writes the norm."""
    first, order = 0, _order(norm_type)
    for index, part in enumerate(plan.parts):
        _launch(
            plan, ("norm", index, order, norm.dtype), norm_kernel, part.sum_programs, SUM_WARPS,
            feed.table, plan.sizes, part.tensor_of, part.start_of, feed.partials, part.chunks, first,
            plan.programs, feed.arrived, norm,
            DTYPE=part.dtype, ORDER=order, PARTIALS=_power_of_2(plan.programs), CHUNK=CHUNK, BLOCK=BLOCK,
        )  # fmt: skip
        first += part.sum_programs


def _scale(
    plan: Plan,
    feed: Feed,
    partials: Tensor,
    count: int,
    norm_type: float,
    max_norm: float,
    norm: Tensor | None,
    *,
    scales: bool = True,
) -> None:
    """Launches the second kernel for each dtype; the first launch writes the norm, and is the only one to do no more."""
    high, rest = _halves(max_norm)
    order = _order(norm_type)
    is_own = partials is feed.partials  # others need not be aligned
    for index, part in enumerate(plan.parts if scales else plan.parts[:1]):
        _launch(
            plan, ("scale", index, order, None if norm is None else norm.dtype) if is_own else None, scale_kernel,
            part.scale_programs if scales else 1, SCALE_WARPS,
            feed.table, plan.sizes, part.tensor_of, part.start_of, partials,
            partials if norm is None else norm, high, rest, part.chunks if scales else 0, count,
            DTYPE=part.dtype, ORDER=order, PARTIALS=_power_of_2(count), WRITES_NORM=norm is not None,
            CHUNK=CHUNK, BLOCK=BLOCK,
        )  # fmt: skip
        norm = None


def _launch(
    plan: Plan, key: Key | None, kernel: Any, programs: int, warps: int, *arguments: object, **constants: object
) -> None:
    """Launches a kernel: the first time of a key through Triton, which compiles it, then the compiled one directly.

    That takes 15 instead of 27 µs of the host, since Triton does not ask again what the key says: dtypes, alignment,
    constants.
    """
    if key and (compiled := plan.compiled.get(key)):
        try:
            compiled[programs, 1, 1](*arguments, *constants.values())
            return
        except TypeError:  # raised before the launch: a Triton to come may take other arguments
            plan.compiled[key] = None
    launched = kernel[programs,](*arguments, **constants, num_warps=warps)
    if key and TAKES_CONSTANTS:
        plan.compiled.setdefault(key, launched)


def _plan(grads: list[Tensor], norm_type: float) -> Plan | None:
    """Returns the plan for such gradients, or None for what the kernels do not take.

    Those are other norms and dtypes, gaps, subclasses, several devices; and what is met first under graph capture.
    """
    if norm_type not in NORM_TYPES:
        return None
    for at, plan in enumerate(_plans):
        if plan.count == len(grads) and plan.looks_alike(*grads):
            if at:
                _plans.insert(0, _plans.pop(at))
            break
    else:
        if torch.cuda.is_current_stream_capturing() or not _suit(grads):
            return None
        looks_alike = _look(grads)  # in the mode of the call: it is part of what the guards compare
        with torch.inference_mode(False):  # no inference tensors: calls outside of that mode write to them, too
            plan = _new_plan(grads, looks_alike)
        _plans[PLANS - 1 :] = []
        _plans.insert(0, plan)
    return None if plan.is_complex and norm_type != 2 else plan


def _suit(grads: list[Tensor]) -> bool:
    """Whether the kernels take these gradients."""
    return (
        ordinary(grads)
        and len({grad.device for grad in grads}) == 1
        and {grad.dtype for grad in grads} <= _REAL.keys()
        and all(map(_is_dense, grads))
        and distinct(grads) is grads
    )


def _look(grads: list[Tensor]) -> Callable[..., bool]:
    """Returns a function that says whether other gradients, as many, are the same in all that a plan depends on.

    What torch.compile guards its graphs with does that in one pass of C++ (torch 2.1 to 2.13 have it), five times as
    fast as asking for dtype, device, strides … from Python. No gradient is kept. It also finds repeated objects.
    """
    try:
        from torch._C._dynamo.guards import TensorGuards
    except ImportError:
        seen = list(map(_properties, grads))
        return lambda *others: list(map(_properties, others)) == seen
    return TensorGuards(*grads, dynamic_dims_sizes=None, dynamic_dims_strides=None).check


def _properties(grad: Tensor) -> tuple[object, ...]:
    """What `_look` compares: its plain twin."""
    strided = grad.layout == torch.strided
    return type(grad), grad.layout, grad.dtype, grad.device, grad.shape, grad.stride() if strided else ()


def _new_plan(grads: list[Tensor], looks_alike: Callable[..., bool]) -> Plan:
    device = grads[0].device
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    sizes = torch.tensor([grad.numel() * (1 + grad.is_complex()) for grad in grads], dtype=torch.int64, device="cpu")
    kinds = [_REAL[grad.dtype] for grad in grads]
    parts = []
    for kind in dict.fromkeys(kinds):
        members = torch.tensor([index for index, other in enumerate(kinds) if other == kind], device="cpu")
        chunks_of = (sizes[members] + (CHUNK - 1)) // CHUNK
        tensor_of = torch.repeat_interleave(members, chunks_of)
        first_of = torch.repeat_interleave(chunks_of.cumsum(0) - chunks_of, chunks_of)
        chunks = tensor_of.numel()
        start_of = (torch.arange(chunks, device="cpu") - first_of) * CHUNK
        programs = [max(1, min(chunks, processors * each)) for each in (SUM_PROGRAMS, SCALE_PROGRAMS)]
        parts.append(Part(kind, chunks, _sent(tensor_of.int(), device), _sent(start_of, device), *programs))
    plan = Plan(
        looks_alike=looks_alike,
        device=device,
        count=len(grads),
        bytes=torch.tensor([grad.numel() * grad.element_size() for grad in grads], dtype=torch.int64, device="cpu"),
        sizes=_sent(sizes, device),
        parts=parts,
        programs=sum(part.sum_programs for part in parts),
        is_complex=any(grad.is_complex() for grad in grads),
        dtype=torch.float64 if tl.float64 in kinds else torch.float32,
        ready=torch.cuda.Event(),  # type: ignore[no-untyped-call]
        compiled={},
        feeds={},
        spare=None,
    )
    plan.ready.record()
    return plan


def _feed(plan: Plan, grads: list[Tensor]) -> Feed | None:
    """Returns what to launch with, with the addresses on the device: sent if they are not those of the last call.

    None if two gradients overlap, since their chunks would race, or if a graph capture finds nothing to capture with.
    """
    addresses = list(map(_data_ptr, grads))
    if torch.cuda.is_current_stream_capturing():
        return _captured_feed(plan, addresses)
    stream = torch._C._cuda_getCurrentRawStream(plan.device.index)
    feed = plan.feeds.get(stream)
    if feed is not None and feed.addresses == addresses and plan.spare is not None:
        return feed
    with torch.inference_mode(False):
        host = torch.tensor(addresses, dtype=torch.int64, device="cpu")
        if _overlap(plan, host):
            return None
        if plan.spare is None:
            plan.spare = torch.empty_like(host, pin_memory=True), _zero(plan)
        if feed is None:
            _wait_for_tables(plan)
            feed = plan.feeds[stream] = Feed(addresses, _sent(host, plan.device), _partials(plan), _zero(plan))
        elif feed.addresses != addresses:
            # torch's host allocator reuses pinned memory only after the copy has read it.
            feed.table.copy_(host.pin_memory(), non_blocking=True)
            feed.addresses = addresses
    return feed


def _captured_feed(plan: Plan, addresses: list[int]) -> Feed | None:
    """Returns a feed that belongs to the graph being captured: each replay sends the addresses of the capture."""
    host = torch.tensor(addresses, dtype=torch.int64, device="cpu")
    if plan.spare is None or _overlap(plan, host):
        return None
    (pinned, arrived), plan.spare = plan.spare, None
    feed = Feed(addresses, pinned.copy_(host).to(plan.device, non_blocking=True), _partials(plan), arrived)
    _captured.append((plan, pinned, feed))
    return feed


def _overlap(plan: Plan, addresses: Tensor) -> bool:
    filled = plan.bytes > 0
    start, order = addresses[filled].sort()
    end = start + plan.bytes[filled][order]
    return bool((start[1:] < end[:-1]).any())


def _wait_for_tables(plan: Plan) -> None:
    """Makes the current stream, new to the plan, wait for the plan's tables and keeps their memory for it."""
    stream = torch.cuda.current_stream()
    stream.wait_event(plan.ready)
    for table in (plan.sizes, *(table for part in plan.parts for table in (part.tensor_of, part.start_of))):
        table.record_stream(stream)


def _partials(plan: Plan) -> Tensor:
    return torch.empty(plan.programs, dtype=torch.float64, device=plan.device)


def _zero(plan: Plan) -> Tensor:
    return torch.zeros((), dtype=torch.int32, device=plan.device)


def _sent(host: Tensor, device: torch.device) -> Tensor:
    return host.pin_memory().to(device, non_blocking=True)


def _on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Makes a device the current one; most often it is, and asking costs less than setting."""
    current = device.index == torch.cuda.current_device()
    return contextlib.nullcontext() if current else torch.cuda.device(device)


def _is_dense(grad: Tensor) -> bool:
    """Whether the elements fill a block of memory without gaps or overlaps, in whatever order."""
    return (
        grad.is_contiguous() or grad.permute(sorted(range(grad.dim()), key=grad.stride, reverse=True)).is_contiguous()
    )


def _order(norm_type: float) -> int:
    return 0 if math.isinf(norm_type) else int(norm_type)


def _power_of_2(partials: int) -> int:
    # Fewer lanes than BLOCK were the slow ones of those tried, by up to 45 % on 13 GB of bfloat16.
    return max(BLOCK, triton.next_power_of_2(partials))  # type: ignore[no-any-return]


def _halves(value: float) -> tuple[float, float]:
    """Splits a number into two float32, since Triton passes floats in that precision."""
    if not abs(value) < 3e38:
        return value, 0.0
    (high,) = struct.unpack("f", struct.pack("f", value))
    return high, value - high
