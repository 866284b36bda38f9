"""The launch plan for gradients on a GPU, made on the CPU: which chunks a program has, what is kept, what is sent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

import triton.language as tl  # noqa: E402

from clipcheck.runtime import cuda_plan  # noqa: E402
from clipcheck.runtime.sections import Sections  # noqa: E402

CPU = torch.device("cpu")


class Machine:
    """What is asked of a GPU: whether a graph is captured, the stream, and what was recorded on it."""

    def __init__(self) -> None:
        self.is_capturing = False
        self.stream = 7
        self.events = 0
        self.waits: list[cuda_plan.Plan] = []
        self.pinned: list[torch.Tensor] = []

    def record(self) -> None:
        self.events += 1


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """One with two multiprocessors and chunks of 64 elements, whose memory is that of the host."""
    made, empty_like = Machine(), torch.empty_like

    def pinned(like: torch.Tensor, pin_memory: bool = False) -> torch.Tensor:
        made.pinned += [like] * pin_memory
        return empty_like(like)

    monkeypatch.setattr(cuda_plan, "CHUNK", 64)
    monkeypatch.setattr(cuda_plan, "_plans", [])
    monkeypatch.setattr(cuda_plan, "_captured", [])
    monkeypatch.setattr(cuda_plan, "_sent", lambda host, device: host)
    monkeypatch.setattr(cuda_plan, "_wait_for_tables", made.waits.append)
    monkeypatch.setattr(torch, "empty_like", pinned)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda host: host.clone())
    monkeypatch.setattr(torch.cuda, "Event", lambda: made)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: made.is_capturing)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(multi_processor_count=2))
    monkeypatch.setattr(torch._C, "_cuda_getCurrentRawStream", lambda index: made.stream, raising=False)
    return made


def plan_for(grads: list[torch.Tensor], *sections: Any) -> cuda_plan.Plan:
    plan = cuda_plan.plan_for(grads, *sections)
    assert plan is not None
    return plan


def of(*sections: int, number: int) -> Sections:
    return Sections(list(sections), number, lambda sums: sums)


# --- chunks and programs --------------------------------------------------------------------------------------------------


def test_the_chunks_of_each_dtype(machine: Machine) -> None:
    grads = [torch.ones(150), torch.ones(64).half(), torch.ones(1), torch.ones(40, dtype=torch.complex64)]
    plan = plan_for(grads)
    single, half = plan.parts
    assert (single.dtype, single.section, single.chunks) == (tl.float32, 0, 6)
    assert single.tensor_of.tolist() == [0, 0, 0, 2, 3, 3]
    assert single.start_of.tolist() == [0, 64, 128, 0, 0, 64]  # a complex element counts as two
    assert (half.dtype, half.section, half.chunks) == (tl.float16, 0, 1)
    assert (half.tensor_of.tolist(), half.start_of.tolist()) == ([1], [0])
    assert (single.tensor_of.dtype, single.start_of.dtype) == (torch.int32, torch.int64)
    assert (plan.sizes.tolist(), plan.bytes.tolist()) == ([150, 64, 1, 80], [600, 128, 4, 320])
    assert (plan.sizes.dtype, plan.bytes.dtype) == (torch.int64, torch.int64)
    assert (plan.count, plan.device, plan.is_complex, plan.dtype) == (4, CPU, True, torch.float32)
    assert (plan.of_each, plan.feeds, plan.spare, machine.events) == (None, {}, None, 1)


@pytest.mark.parametrize(
    ("chunks", "for_sums", "for_scaling"), [(0, 1, 1), (1, 1, 1), (8, 8, 8), (9, 8, 9), (16, 8, 16), (17, 8, 16)]
)
def test_programs_are_a_few_for_each_multiprocessor(
    chunks: int, for_sums: int, for_scaling: int, machine: Machine
) -> None:
    """Four for sums and eight for scaling: more would wait for each other."""
    (part,) = plan_for([torch.ones(64 * chunks)]).parts
    assert (part.chunks, part.sum_programs, part.scale_programs) == (chunks, for_sums, for_scaling)


@pytest.mark.parametrize(
    ("dtypes", "norm", "is_complex"),
    [
        ([torch.float32], torch.float32, False),
        ([torch.bfloat16, torch.float16], torch.float32, False),
        ([torch.float32, torch.float64], torch.float64, False),
        ([torch.complex64], torch.float32, True),
        ([torch.float32, torch.complex128], torch.float64, True),
    ],
)
def test_the_dtype_of_the_norm(
    dtypes: list[torch.dtype], norm: torch.dtype, is_complex: bool, machine: Machine
) -> None:
    plan = plan_for([torch.ones(3, dtype=dtype) for dtype in dtypes])
    assert (plan.dtype, plan.is_complex) == (norm, is_complex)


def test_each_section_has_partial_sums_of_its_own(machine: Machine) -> None:
    """The last gradient is one that another rank counts: it is scaled and not summed."""
    grads = [torch.ones(64), torch.ones(640), torch.ones(64).half(), torch.ones(64)]
    plan = plan_for(grads, of(1, 0, 1, 2, number=2))
    assert [(part.section, part.dtype, part.tensor_of.unique().tolist()) for part in plan.parts] == [
        (0, tl.float32, [1]),
        (1, tl.float32, [0]),
        (1, tl.float16, [2]),
        (2, tl.float32, [3]),
    ]
    assert [(part.sum_programs, part.scale_programs) for part in plan.parts] == [(8, 10), (1, 1), (1, 1), (0, 1)]
    assert (plan.sections, plan.programs, plan.ends.tolist()) == (2, 10, [0, 8, 10])
    assert plan.ends.dtype == torch.int32
    assert plan.of_each == (2, [1, 0, 1, 2])
    whole = plan_for(grads)
    assert (whole.sections, whole.ends.tolist()) == (1, [0, 9])
    empty = plan_for(grads, of(0, 0, 0, 0, number=3))  # of the others this rank has nothing
    assert empty.ends.tolist() == [0, 9, 9, 9]


# --- which plan -----------------------------------------------------------------------------------------------------------


def test_a_plan_is_for_gradients_that_look_alike(machine: Machine) -> None:
    first, other = [torch.ones(3), torch.ones(4)], [torch.ones(4), torch.ones(3)]
    plan = plan_for(first)
    assert plan_for([torch.zeros(3), torch.zeros(4)]) is plan
    assert plan_for(other) is not plan
    assert plan_for(first[:1]) is not plan
    assert plan_for([*first, torch.ones(1)]) is not plan
    assert plan_for(first, of(0, 0, number=1)) is not plan
    split = plan_for(first, of(0, 1, number=2))
    assert plan_for(first, of(0, 1, number=2)) is split
    assert plan_for(first, of(1, 0, number=2)) is not split
    assert plan_for(first, of(0, 1, number=3)) is not split
    assert plan_for(first) is plan
    assert cuda_plan._plans[0] is plan and len(cuda_plan._plans) == 8


def test_the_plans_used_last_are_kept(machine: Machine) -> None:
    for size in range(1, cuda_plan.PLANS + 1):
        plan_for([torch.ones(size)])
    oldest = cuda_plan._plans[-1]
    assert plan_for([torch.ones(1)]) is oldest is cuda_plan._plans[0]
    plan_for([torch.ones(cuda_plan.PLANS + 1)])
    assert len(cuda_plan._plans) == cuda_plan.PLANS
    assert plan_for([torch.ones(1)]) is oldest
    assert plan_for([torch.ones(2)]) is cuda_plan._plans[0]  # the one that had to go is made again
    assert len(cuda_plan._plans) == cuda_plan.PLANS


ONE = torch.ones(4)


@pytest.mark.parametrize(
    "grads",
    [
        [torch.ones(4).int()],
        [ONE, torch.ones(4).bool()],
        [torch.ones(4).to_sparse()],
        [ONE.as_subclass(type("Own", (torch.Tensor,), {}))],
        [ONE, torch.ones(4, device="meta")],
        [ONE, ONE],
        [torch.ones(8)[::2]],
        [torch.ones(1).expand(4)],
        [ONE, torch.ones(3, 6)[:, :4]],
    ],
)
def test_what_the_kernels_cannot_do_has_no_plan(grads: list[torch.Tensor], machine: Machine) -> None:
    assert cuda_plan.plan_for(grads) is None
    assert cuda_plan._plans == []


def test_a_new_layout_has_no_plan_while_a_graph_is_captured(machine: Machine) -> None:
    plan = plan_for([torch.ones(3)])
    machine.is_capturing = True
    assert plan_for([torch.ones(3)]) is plan
    assert cuda_plan.plan_for([torch.ones(4)]) is None


@pytest.mark.parametrize(
    ("grad", "dense"),
    [
        (torch.ones(()), True),
        (torch.ones(0), True),
        (torch.ones(4, 5), True),
        (torch.ones(4, 5).t(), True),
        (torch.ones(2, 3, 4, 5).contiguous(memory_format=torch.channels_last), True),
        (torch.ones(2, 3, 4).permute(2, 0, 1), True),
        (torch.ones(4, 6)[:, 1:], False),
        (torch.ones(4, 6)[:, 1:].t(), False),
        (torch.ones(4, 1).expand(4, 5), False),
        (torch.ones(1, 5).expand(4, 5), False),
    ],
)
def test_whether_memory_has_no_gaps(grad: torch.Tensor, dense: bool) -> None:
    assert cuda_plan._is_dense(grad) is dense


# --- what is sent ---------------------------------------------------------------------------------------------------------


def test_addresses_are_sent_when_they_change(machine: Machine) -> None:
    grads = [torch.ones(100), torch.ones(5)]
    plan = plan_for(grads)
    feed = cuda_plan.feed_for(plan, grads)
    assert feed is not None
    assert feed.addresses == feed.table.tolist() == [grad.data_ptr() for grad in grads]
    assert (feed.partials.dtype, tuple(feed.partials.shape), feed.partials.device) == (
        torch.float64,
        (plan.programs,),
        CPU,
    )
    assert (feed.arrived.dtype, feed.arrived.item(), feed.arrived.dim()) == (torch.int32, 0, 0)
    assert (feed.stream, feed.launches, machine.waits) == (7, {}, [plan])
    table = feed.table
    assert cuda_plan.feed_for(plan, grads) is feed and len(machine.pinned) == 1
    moved = [torch.zeros(100), grads[1]]
    assert cuda_plan.feed_for(plan, moved) is feed
    assert feed.table is table and feed.addresses == table.tolist() == [grad.data_ptr() for grad in moved]
    assert machine.waits == [plan]
    machine.stream = 8
    other = cuda_plan.feed_for(plan, grads)
    assert other is not None and other is not feed and machine.waits == [plan, plan]
    assert plan.feeds == {7: feed, 8: other}
    assert other.addresses == [grad.data_ptr() for grad in grads] != feed.addresses


def test_gradients_that_overlap_are_not_for_the_kernels(machine: Machine) -> None:
    memory = torch.ones(300)
    apart, beside = [memory[:100], memory[100:200]], [memory[100:200], memory[:100]]
    plan = plan_for(apart)
    for grads in (apart, beside):
        assert cuda_plan.feed_for(plan, grads) is not None
    assert cuda_plan.feed_for(plan, [memory[:100], memory[99:199]]) is None
    assert cuda_plan.feed_for(plan, [memory[99:199], memory[:100]]) is None
    three = [memory[:100], memory[100:200], memory[200:300]]
    assert cuda_plan.feed_for(plan_for(three), three[::-1]) is not None
    assert cuda_plan.feed_for(plan_for(three), [*three[:2], memory[150:250]]) is None
    machine.is_capturing = True
    assert cuda_plan.feed_for(plan, [memory[:100], memory[99:199]]) is None
    machine.is_capturing = False
    inside = [memory[:100], memory[50:50]]  # which has no element that could be scaled twice
    assert cuda_plan.feed_for(plan_for(inside), inside) is not None


def test_a_graph_has_a_feed_of_its_own(machine: Machine) -> None:
    """Each replay sends what it was captured with; so nothing else may write there."""
    grads = [torch.ones(100), torch.ones(5)]
    plan = plan_for(grads)
    machine.is_capturing = True
    assert cuda_plan.feed_for(plan, grads) is None  # memory cannot be pinned now
    machine.is_capturing = False
    feed = cuda_plan.feed_for(plan, grads)
    assert plan.spare is not None
    pinned, zero = plan.spare
    machine.is_capturing = True
    captured = cuda_plan.feed_for(plan, grads)
    assert captured is not None and captured is not feed
    assert captured.addresses == captured.table.tolist() == pinned.tolist() == [grad.data_ptr() for grad in grads]
    assert captured.arrived is zero and zero.item() == 0
    assert (captured.stream, captured.launches, captured.partials.numel()) == (7, {}, plan.programs)
    assert plan.spare is None and plan.feeds == {7: feed}
    ((kept_plan, kept, kept_feed),) = cuda_plan._captured
    assert kept_plan is plan and kept is pinned and kept_feed is captured
    assert cuda_plan.feed_for(plan, grads) is None
    machine.is_capturing = False
    assert cuda_plan.feed_for(plan, grads) is feed and plan.spare is not None  # ready for the next graph


def test_what_is_kept_can_be_written_to_outside_of_inference_mode(machine: Machine) -> None:
    with torch.inference_mode():
        grads = [torch.ones(100)]
        plan = plan_for(grads)
        feed = cuda_plan.feed_for(plan, grads)
    assert feed is not None and plan.spare is not None
    kept = [plan.sizes, plan.ends, *plan.parts[0][3:5], feed.table, feed.partials, feed.arrived, *plan.spare]
    assert not any(tensor.is_inference() for tensor in kept)


def test_a_stream_waits_for_the_tables_and_keeps_them(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[object] = []
    recorded: list[tuple[torch.Tensor, object]] = []
    stream = SimpleNamespace(wait_event=waited.append)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: stream)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda table, on: recorded.append((table, on)))
    tables = [torch.ones(1) for _ in range(4)]
    plan: Any = SimpleNamespace(
        ready="the event",
        sizes=tables[0],
        ends=tables[1],
        parts=[SimpleNamespace(tensor_of=tables[2], start_of=tables[3])],
    )
    cuda_plan._wait_for_tables(plan)
    assert waited == ["the event"]
    assert [table is own and on is stream for (table, on), own in zip(recorded, tables, strict=True)] == [True] * 4


def test_tables_are_sent_without_waiting() -> None:
    asked: list[object] = []

    class Host:
        def pin_memory(self) -> Host:
            asked.append("pinned")
            return self

        def to(self, device: torch.device, non_blocking: bool) -> str:
            asked.append((device, non_blocking))
            return "sent"

    host: Any = Host()
    assert cuda_plan._sent(host, CPU) == "sent"
    assert asked == ["pinned", (CPU, True)]
