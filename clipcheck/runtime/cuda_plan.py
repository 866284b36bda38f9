"""The launch plan for a list of gradients on a GPU: which chunks each program processes, and their addresses.

Plans are cached. The next call only checks, in one pass, that its gradients have the same layout; it also compares
addresses, and sends them to the device again if one has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import torch
import triton.language as tl
from torch import Tensor

from clipcheck.runtime.gradients import distinct, ordinary
from clipcheck.runtime.looks import look
from clipcheck.runtime.sections import Sections

CHUNK = 8_192  # elements that a program processes at a time
SUM_PROGRAMS, SCALE_PROGRAMS = 4, 8  # programs per multiprocessor; tuned on an H100
PLANS = 64  # cached plans, the most recently used

_REAL = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
    torch.complex64: tl.float32,
    torch.complex128: tl.float64,
}

_data_ptr = torch._C.TensorBase.data_ptr

# Kernel, part, order of the norm, dtype of the written norm, width: with the feed, everything it is compiled for.
Key: TypeAlias = tuple[str, int, int, torch.dtype | None, int]


class Part(NamedTuple):
    """The chunks of all gradients of one dtype in one section; a complex element counts as two real ones."""

    dtype: tl.dtype
    section: int
    chunks: int
    tensor_of: Tensor  # int32, one per chunk: the index of its gradient
    start_of: Tensor  # int64, one per chunk: its first element
    sum_programs: int  # 0 if the part is scaled but not summed
    scale_programs: int


@dataclass(eq=False)
class Feed:
    """The buffers that launches of one plan on one stream read and write."""

    addresses: list[int]  # of the gradients, on the host
    table: Tensor  # the same on the device
    partials: Tensor  # float64, one per program of the sum
    arrived: Tensor  # int32, 0 between launches: how many programs of the norm are done
    stream: int  # the address of the stream
    launches: dict[Key, Callable[..., None]]  # compiled kernels, to launch again


@dataclass(eq=False)
class Plan:
    """What follows from the layout of a list of gradients: their number, classes, dtypes, shapes, strides, device."""

    looks_alike: Callable[..., bool]
    of_each: tuple[int, list[int]] | None  # the number of sections, and the section of each gradient
    device: torch.device
    count: int  # of gradients
    bytes: Tensor  # int64, one per gradient; on the CPU
    sizes: Tensor  # int64, one per gradient: its elements
    parts: list[Part]  # by section
    programs: int  # of the sums of all parts
    sections: int
    ends: Tensor  # int32: the first partial of each section, and one past the last
    is_complex: bool
    dtype: torch.dtype  # of the norm
    ready: torch.cuda.Event  # recorded once the tables above are written
    feeds: dict[int, Feed]  # by stream
    spare: tuple[Tensor, Tensor] | None  # pinned memory and a zero for a graph capture, which cannot allocate them


_plans: list[Plan] = []  # most recently used first
_captured: list[object] = []  # read by graphs at each replay; kept forever, since the end of a graph cannot be observed


def plan_for(grads: list[Tensor], sections: Sections | None = None) -> Plan | None:
    """Returns the plan for the gradients, or None if the kernels do not support them.

    Unsupported are other dtypes, tensors with gaps, subclasses, several devices, and a layout that first appears under
    graph capture.
    """
    of_each = None if sections is None else (sections.number, sections.of)
    for at, plan in enumerate(_plans):
        if plan.count == len(grads) and plan.of_each == of_each and plan.looks_alike(*grads):
            if at:
                _plans.insert(0, _plans.pop(at))
            return plan
    if torch.cuda.is_current_stream_capturing() or not _suit(grads):
        return None
    looks_alike = look(grads)  # in the caller's mode, which the guards compare
    with torch.inference_mode(False):  # not inference tensors, since calls outside that mode write to them too
        plan = _new_plan(grads, looks_alike, sections)
    _plans[PLANS - 1 :] = []
    _plans.insert(0, plan)
    return plan


def feed_for(plan: Plan, grads: list[Tensor]) -> Feed | None:
    """Returns the feed for a launch; the addresses are sent to the device if they differ from those of the last call.

    None if two gradients overlap, since their chunks would race, or if a graph capture has no preallocated memory.
    """
    addresses = list(map(_data_ptr, grads))
    stream = torch._C._cuda_getCurrentRawStream(plan.device.index)
    if torch.cuda.is_current_stream_capturing():
        return _captured_feed(plan, addresses, stream)
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
            table = _sent(host, plan.device)
            feed = plan.feeds[stream] = Feed(addresses, table, _partials(plan), _zero(plan), stream, {})
        elif feed.addresses != addresses:
            # torch's host allocator reuses pinned memory only after the copy has read it.
            feed.table.copy_(host.pin_memory(), non_blocking=True)
            feed.addresses = addresses
    return feed


def _suit(grads: list[Tensor]) -> bool:
    """Whether the kernels support these gradients."""
    return (
        ordinary(grads)
        and len({grad.device for grad in grads}) == 1
        and {grad.dtype for grad in grads} <= _REAL.keys()
        and all(map(_is_dense, grads))
        and distinct(grads) is grads
    )


def _new_plan(grads: list[Tensor], looks_alike: Callable[..., bool], sections: Sections | None) -> Plan:
    device = grads[0].device
    sizes = torch.tensor([grad.numel() * (1 + grad.is_complex()) for grad in grads], dtype=torch.int64, device="cpu")
    kinds = [_REAL[grad.dtype] for grad in grads]
    section_of, count = (sections.of, sections.number) if sections else ([0] * len(grads), 1)
    parts = []
    for key in sorted({*zip(section_of, kinds, strict=True)}, key=lambda key: (key[0], kinds.index(key[1]))):
        members = [index for index, own in enumerate(zip(section_of, kinds, strict=True)) if own == key]
        parts.append(_new_part(*key, members, sizes, device, is_summed=key[0] < count))
    programs = [sum(part.sum_programs for part in parts if part.section == section) for section in range(count)]
    plan = Plan(
        looks_alike=looks_alike,
        of_each=None if sections is None else (sections.number, sections.of),
        device=device,
        count=len(grads),
        bytes=torch.tensor([grad.numel() * grad.element_size() for grad in grads], dtype=torch.int64, device="cpu"),
        sizes=_sent(sizes, device),
        parts=parts,
        programs=sum(programs),
        sections=count,
        ends=_sent(torch.tensor([0, *programs], dtype=torch.int32, device="cpu").cumsum(0).int(), device),
        is_complex=any(grad.is_complex() for grad in grads),
        dtype=torch.float64 if tl.float64 in kinds else torch.float32,
        ready=torch.cuda.Event(),  # type: ignore[no-untyped-call]
        feeds={},
        spare=None,
    )
    plan.ready.record()
    return plan


def _new_part(
    section: int, kind: tl.dtype, members: list[int], sizes: Tensor, device: torch.device, is_summed: bool
) -> Part:
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    own = torch.tensor(members, device="cpu")
    chunks_of = (sizes[own] + (CHUNK - 1)) // CHUNK
    tensor_of = torch.repeat_interleave(own, chunks_of)
    first_of = torch.repeat_interleave(chunks_of.cumsum(0) - chunks_of, chunks_of)
    chunks = tensor_of.numel()
    start_of = (torch.arange(chunks, device="cpu") - first_of) * CHUNK
    programs = [max(1, min(chunks, processors * each)) for each in (SUM_PROGRAMS, SCALE_PROGRAMS)]
    tables = _sent(tensor_of.int(), device), _sent(start_of, device)
    return Part(kind, section, chunks, *tables, programs[0] if is_summed else 0, programs[1])


def _captured_feed(plan: Plan, addresses: list[int], stream: int) -> Feed | None:
    """Returns a feed owned by the graph being captured: each replay sends the addresses seen at capture."""
    host = torch.tensor(addresses, dtype=torch.int64, device="cpu")
    if plan.spare is None or _overlap(plan, host):
        return None
    (pinned, arrived), plan.spare = plan.spare, None
    table = pinned.copy_(host).to(plan.device, non_blocking=True)
    feed = Feed(addresses, table, _partials(plan), arrived, stream, {})
    _captured.append((plan, pinned, feed))
    return feed


def _overlap(plan: Plan, addresses: Tensor) -> bool:
    filled = plan.bytes > 0
    start, order = addresses[filled].sort()
    end = start + plan.bytes[filled][order]
    return bool((start[1:] < end[:-1]).any())


def _wait_for_tables(plan: Plan) -> None:
    """Makes the current stream, new to this plan, wait for the plan's tables, and keeps their memory alive for it."""
    stream = torch.cuda.current_stream()
    stream.wait_event(plan.ready)
    for table in (plan.sizes, plan.ends, *(table for part in plan.parts for table in (part.tensor_of, part.start_of))):
        table.record_stream(stream)


def _partials(plan: Plan) -> Tensor:
    return torch.empty(plan.programs, dtype=torch.float64, device=plan.device)


def _zero(plan: Plan) -> Tensor:
    return torch.zeros((), dtype=torch.int32, device=plan.device)


def _sent(host: Tensor, device: torch.device) -> Tensor:
    return host.pin_memory().to(device, non_blocking=True)


def _is_dense(grad: Tensor) -> bool:
    """Whether the elements fill a block of memory without gaps or overlaps, in any order."""
    return (
        grad.is_contiguous() or grad.permute(sorted(range(grad.dim()), key=grad.stride, reverse=True)).is_contiguous()
    )
