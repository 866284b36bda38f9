"""The norm and the scaling on the CPU: every element once, to seven digits, and on one thread if torch uses one."""

from __future__ import annotations

import gc
import math
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from clipcheck import runtime  # noqa: E402
from clipcheck.runtime import cpu, cpu_plan, load, reference, rows, sixteen  # noqa: E402

INF = math.inf


def params_of(grads: list[torch.Tensor]) -> list[torch.Tensor]:
    params = [torch.nn.Parameter(torch.empty_like(grad)) for grad in grads]
    for param, grad in zip(params, grads, strict=True):
        param.grad = grad
    return params


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [7, 1_001, 9_001, 12_001, 31_001])
def test_many_gradients_that_are_concatenated(dtype: torch.dtype, size: int) -> None:
    grads = [torch.randn(size).to(dtype) for _ in range(70)]
    got = runtime.grad_norm(params_of(grads)).item()
    assert abs(got / reference.total_norm(grads) - 1) < 1e-7


def test_the_16_bit_kernel_takes_so_many_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sixteen, "ROWS", 100)
    grad = torch.randn(90_007).bfloat16()
    sums = list(sixteen.squares(grad))
    assert max(map(len, sums)) == 100
    assert sum(map(len, sums)) == 90_007 // sixteen.LONG + 1
    assert math.sqrt(torch.cat(sums).double().sum()) == pytest.approx(reference.total_norm([grad]), rel=1e-7)


def every_layout(size: int) -> list[torch.Tensor]:
    """Matrices with this many columns: contiguous, transposed, sliced both ways, expanded, in three dimensions."""
    return [
        torch.randn(300, size),
        torch.randn(size, 300).t(),
        torch.randn(300, size + 8)[:, 4:-4],
        torch.randn(600, size)[::2],
        torch.randn(1, size).expand(300, size),
        torch.randn(300, 1).expand(300, size),
        torch.randn(3, size, 100).transpose(0, 1),
    ]


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, INF])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_the_norm_has_every_element_once(
    dtype: torch.dtype, norm_type: float, busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "is_serial_better", lambda: busy)
    torch.manual_seed(5)
    for size in (1, 3, 64, 100, 200, 201, 1_000):
        for grad in every_layout(size):
            for grads in (
                [grad.to(dtype)],
                [grad.to(dtype), torch.ones(3, dtype=dtype), torch.ones(5_000, dtype=dtype)],
            ):
                before = [each.clone() for each in grads]
                got = runtime.grad_norm(params_of(grads), norm_type).item()
                assert abs(got / reference.total_norm(before, norm_type) - 1) < 1e-7
                assert all(map(torch.equal, grads, before))


@pytest.mark.parametrize("value", [1.1, 1.3, 1.7])
def test_repeats_among_others_keep_seven_digits(value: float) -> None:
    """Constants with random rows where a sample may fall, half of each, and a few elements that dominate."""
    torch.manual_seed(6)
    spotted = torch.full((4_194_304,), value)
    for at in (0, 2_097_152, 3_000_064):
        spotted[at : at + 256] = torch.randn(256)
    mixed = torch.where(torch.rand(1_000_000) < 0.5, torch.tensor(value), torch.randn(1_000_000))
    halves = torch.cat([torch.full((500_000,), value), torch.randn(500_000)])
    few_large = torch.cat([torch.full((160,), 1e4 * value), torch.randn(300_000)])
    for grads in ([spotted], [mixed], [halves], [few_large], [torch.full((100, 100), value)] * 6, [spotted[:9_000]]):
        grads = [grad.clone() for grad in grads]
        assert abs(runtime.grad_norm(params_of(grads)).item() / reference.total_norm(grads) - 1) < 1e-7


def of_few_values(size: int, count: int, spread: float) -> torch.Tensor:
    """Random values and signs from a small set, one of which dominates the norm if the spread is large."""
    values = torch.exp(spread * torch.randn(count))
    return values[torch.randint(count, (size,))] * (torch.randint(2, (size,)) * 2 - 1)


ADVERSARIAL = {
    "few values": lambda size: of_few_values(size, 3, 2.0),
    "some values": lambda size: of_few_values(size, 8, 2.0),
    "rows that are constant": lambda size: torch.randn(size // 100 + 1).repeat_interleave(100)[:size],
    "a block that dominates": lambda size: torch.cat(
        [torch.full((size // 50,), 133.0), torch.randn(size - size // 50)]
    ),
    "a constant end": lambda size: torch.cat([torch.randn(size - size // 5), torch.full((size // 5,), 1.3)]),
    "heavy tails": lambda size: torch.randn(size) / torch.randn(size),
    "mostly zeros": lambda size: 1.7 * (torch.rand(size) < 0.1).float(),
}


@pytest.mark.parametrize("make", ADVERSARIAL.values(), ids=ADVERSARIAL.keys())
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_adversarial_gradients_keep_seven_digits(make: Callable[[int], torch.Tensor], dtype: torch.dtype) -> None:
    for seed in range(3):
        torch.manual_seed(seed)
        for size, count in ((7_000, 1), (10_000, 6), (40_961, 3), (300_000, 1)):
            grads = [make(size).to(dtype) for _ in range(count)]
            got = cpu.norm([grads], 2.0)
            assert abs(got / reference.total_norm(grads) - 1) < 1e-7


def test_long_rows_of_few_values_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their norms differ, so only their elements show it."""
    torch.manual_seed(0)
    sets = [[of_few_values(131_072, 3, 2.0)] for _ in range(20)]
    want = [reference.total_norm(grads) for grads in sets]

    def worst() -> float:
        return max(abs(cpu.norm([grads], 2.0) / exact - 1) for grads, exact in zip(sets, want, strict=True))

    assert worst() < 5e-8
    monkeypatch.setattr(cpu, "_start_of_row", lambda *_: [])
    assert worst() > 1e-7


def test_the_error_of_repeated_rows_is_subtracted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the norm would be as inaccurate as the rows."""
    grads = [torch.full((1000, 1000), 1.0 + each / 31) for each in range(30)]
    want = [reference.total_norm([grad]) for grad in grads]
    got = [cpu.norm([[grad]], 2.0) for grad in grads]
    assert max(abs(g / w - 1) for g, w in zip(got, want, strict=True)) < 1e-12
    monkeypatch.setattr(cpu, "_repeats", lambda *_: False)
    got = [cpu.norm([[grad]], 2.0) for grad in grads]
    assert max(abs(g / w - 1) for g, w in zip(got, want, strict=True)) > 5e-8


def test_nothing_waits_for_cores_that_are_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch runs what has fewer elements than its grain on one thread; so no operation here is larger."""
    monkeypatch.setattr(cpu, "is_serial_better", lambda: True)
    sizes = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if function in (torch.linalg.vector_norm, torch._foreach_mul_, torch.Tensor.float):
                tensors = args[0] if isinstance(args[0], list) else [args[0]]
                sizes.extend(tensor.numel() for tensor in tensors)
            return function(*args, **(kwargs or {}))

    for dtype in (torch.float32, torch.bfloat16):
        grads = [torch.randn(300, 700).to(dtype), torch.randn(100_000).to(dtype), torch.randn(20, 30).to(dtype)]
        want = reference.clipped(grads, 1.0)
        with Watch():
            runtime.clip_grad_norm_(params_of(grads), 1.0)
        assert len(sizes) > 20 and max(sizes) < load.GRAIN
        for grad, exact in zip(grads, want, strict=True):
            torch.testing.assert_close(grad.double(), exact, rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=0)


@pytest.mark.parametrize("factor", [0.3, 0.999999, 1e-3, 1e-30])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_small_16_bit_gradients_are_scaled_to_the_bit_as_torch_scales_them(dtype: torch.dtype, factor: float) -> None:
    every = torch.arange(65_536).to(torch.int16).view(dtype)
    every = every[every.isfinite()]
    matrix = torch.randn(60, 64).to(dtype)
    grads = [every[:16_383], every[-16_384:], matrix, matrix.t().clone().t(), torch.zeros(0, dtype=dtype), every[:1][0]]
    ours, theirs = [grad.clone() for grad in grads], [grad.clone() for grad in grads]
    cpu.scale_([ours], factor)
    torch._foreach_mul_(theirs, torch.tensor(factor, dtype=torch.float32))
    for own, other in zip(ours, theirs, strict=True):
        assert torch.equal(own.view(torch.int16), other.view(torch.int16))


def test_without_its_function_16_bit_gradients_are_multiplied(monkeypatch: pytest.MonkeyPatch) -> None:
    grads = [torch.randn(size).half() for size in (10, 20_000, 300)]
    want = [grad * torch.tensor(0.3) for grad in grads]
    monkeypatch.setattr(sixteen, "has_scaling", lambda _: False)
    cpu.scale_([grads], 0.3)
    assert all(map(torch.equal, grads, want))


def test_a_torch_without_the_function_for_16_bits_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    ask = sixteen.has_scaling.__wrapped__
    assert not ask(torch.float32) and not ask(torch.float64)

    def missing(*_: object) -> None:
        raise NotImplementedError("not on this device")

    def rounds_the_factor(grads: list[torch.Tensor], _: object, factor: torch.Tensor) -> None:
        torch._foreach_mul_(grads, factor.to(grads[0].dtype))

    for other in (missing, rounds_the_factor):
        monkeypatch.setattr(torch, "_amp_foreach_non_finite_check_and_unscale_", other)
        assert not ask(torch.bfloat16)
    monkeypatch.delattr(torch, "_amp_foreach_non_finite_check_and_unscale_")
    assert not ask(torch.bfloat16)


def test_torch_has_one_thread_below_the_grain() -> None:
    """The runtime relies on this; a process that never had a parallel region has one OpenMP thread."""
    if sys.platform != "linux":
        pytest.skip("counts threads as Linux lists them")
    script = """
import os, torch
from clipcheck import runtime
torch.set_num_threads(2)
def threads(): return len(os.listdir("/proc/self/task"))
before = threads()
for shape, count in (((30_000,), 7), ((30_000,), 320), ((100, 100), 40), ((64,), 3_000), ((4_000,), 1), ((5_000,), 1), ((180, 180), 3)):
    for dtype in (torch.float32, torch.bfloat16):
        params = [torch.nn.Parameter(torch.ones(shape, dtype=dtype)) for _ in range(count)]
        for p in params:
            p.grad = torch.ones(shape, dtype=dtype) + torch.arange(shape[-1]).to(dtype)
        for norm_type in (1.0, 2.0, 3.0, float("inf")):
            runtime.clip_grad_norm_(params, 1.0, norm_type)
params = [torch.nn.Parameter(torch.ones(100)) for _ in range(54_000)]
for p in params:
    p.grad = torch.ones(100)
runtime.clip_grad_norm_(params, 1.0)
print(threads() - before)
large = torch.nn.Parameter(torch.ones(1_000_000))
large.grad = torch.ones(1_000_000)
torch.nn.utils.clip_grad_norm_([large], 1.0)
print(threads() - before)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    below, above = map(int, done.stdout.split())
    assert below == 0
    if (os.cpu_count() or 1) > 1:
        assert above > 0


def test_a_forked_process_clips_small_gradients() -> None:
    """OpenMP's threads do not survive a fork: a parallel region would hang, and torch has none here."""
    if sys.platform != "linux":
        pytest.skip("forks")
    script = """
import multiprocessing, torch
from clipcheck import runtime
def params(shape, count, dtype):
    made = [torch.nn.Parameter(torch.ones(shape, dtype=dtype)) for _ in range(count)]
    for p in made:
        p.grad = torch.rand(shape).to(dtype)
    return made
def work():
    for dtype in (torch.float32, torch.bfloat16):
        for shape, count in (((30_000,), 20), ((64,), 2_000), ((5_000,), 1)):
            for norm_type in (1.0, 2.0, 3.0, float("inf")):
                runtime.clip_grad_norm_(params(shape, count, dtype), 1.0, norm_type)
torch.set_num_threads(2)
torch.ones(1_000_000).mul_(2)  # starts the threads
child = multiprocessing.get_context("fork").Process(target=work)
child.start()
child.join(60)
print(child.exitcode)
child.kill()
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


def test_a_busy_machine_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "loadavg"
    monkeypatch.setattr(load, "_running", lambda: os.open(file, os.O_RDONLY))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    for running, want in ((1, False), (4, False), (5, True), (120, True)):
        file.write_text(f"9.13 8.20 7.73 {running}/345 15089\n")
        assert load.is_serial_better() is want
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert not load.is_serial_better()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    monkeypatch.setattr(load, "_running", lambda: None)
    assert not load.is_serial_better()


def test_a_plan_is_for_gradients_that_look_alike() -> None:
    """Each of these is in turn the one that the plan was made for, and all others are not taken for it."""
    memory = torch.randn(40_000)
    other = torch.randn(7_000)
    look_alikes = [
        memory[:20_000],
        memory[:20_001],
        memory[:20_000].view(100, 200),
        memory[:20_000].view(100, 200).t(),
        memory[::2],
        memory.view(torch.bfloat16)[:20_000],
        memory.view(torch.float64)[:20_000],
        memory.view(torch.complex64)[:20_000],
        memory[:0],
    ]
    for _ in range(2):
        for grad in look_alikes:
            grad.normal_()
            params = params_of([grad, other])
            want = reference.total_norm([grad, other])
            assert runtime.clip_grad_norm_(params, INF).item() == pytest.approx(want, rel=1e-7)
            plan = cpu_plan.plan_for([grad, other])
            assert plan is cpu_plan._plans[0]
            assert [plan.looks_alike(each, other) for each in look_alikes] == [each is grad for each in look_alikes]
    assert cpu_plan.plan_for([other, other]) is None
    assert not cpu_plan.plan_for([other, memory[:7_000]]).looks_alike(other, other)


def test_plans_are_few_and_keep_no_gradient() -> None:
    for size in range(1, cpu_plan.PLANS + 10):
        grad = torch.randn(size)
        runtime.clip_grad_norm_(params_of([grad]), 1.0)
    assert len(cpu_plan._plans) == cpu_plan.PLANS
    kept = weakref.ref(grad)
    del grad
    gc.collect()
    assert kept() is None


# --- how gradients are divided ---------------------------------------------------------------------------------------------


def elements(*sizes: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    """Vectors of so many elements that take no memory."""
    return [torch.zeros(1, dtype=dtype).expand(size) for size in sizes]


ROWS_OF_A_LARGER = torch.zeros(120, 208)[:, ::2]


@pytest.mark.parametrize(
    ("grad", "where"),
    [
        (torch.zeros(6_143), {"small": [0]}),
        (torch.zeros(6_144), {"matrices": [(0, (64, 96))]}),
        (torch.zeros(12_480), {"matrices": [(0, (120, 104))]}),
        (torch.zeros(12_500), {"others": [0]}),  # a remainder is left
        (torch.zeros(100, 104), {"matrices": [(0, None)]}),
        (torch.zeros(100, 64), {"matrices": [(0, None)]}),
        (torch.zeros(120, 208)[:, :104], {"matrices": [(0, None)]}),  # with gaps between the rows
        (torch.zeros(104, 63), {"matrices": [(0, (63, 104))]}),  # rows that are too short
        (torch.zeros(96, 105), {"matrices": [(0, (105, 96))]}),  # or too long
        (torch.zeros(120, 104).t(), {"dense": [(0, (120, 104))]}),
        (torch.zeros(4, 8, 13, 30).to(memory_format=torch.channels_last), {"dense": [(0, (120, 104))]}),
        (ROWS_OF_A_LARGER, {"others": [0]}),
        (torch.zeros(12_480).bfloat16(), {"small": [0]}),
        (torch.zeros(16_383).half(), {"small": [0]}),
        (torch.zeros(16_640).bfloat16(), {"matrices": [(0, (160, 104))]}),
    ],
)
def test_a_gradient_is_viewed_as_rows_where_that_needs_no_copy(grad: torch.Tensor, where: dict[str, object]) -> None:
    how = rows.division([grad])._asdict()
    assert {name: how[name] for name in ("matrices", "dense", "small", "others") if how[name]} == where
    assert (how["sizes"], how["elements"]) == ([grad.numel()], grad.numel())
    assert (how["small_as_rows"], how["any_long"]) == (False, False)


def test_many_elements_have_long_rows() -> None:
    for high in (1_310, 1_311):  # fewer than 131,072 elements, and more
        assert not rows.division([torch.zeros(high, 100)]).any_long  # since its rows are short
    assert rows.division([torch.zeros(512, 256)]).matrices == [(0, None)]
    assert rows.division([torch.zeros(512, 256)]).any_long
    assert rows.division([torch.zeros(131_072)]).matrices == [(0, (512, 256))]
    assert rows.division([torch.zeros(512, 260)[:, :257]]).others == [0]
    assert rows.division([torch.zeros(512, 260)[:, :257]]).any_long
    assert rows.longest_row([131_072]) == rows.longest_row([65_536] * 2) == 256
    assert rows.longest_row([131_071]) == 104


@pytest.mark.parametrize(
    ("dtype", "count", "as_rows"),
    [
        (torch.float16, 15, False),
        (torch.float16, 16, True),  # 131,072 elements
        (torch.float16, 512, True),
        (torch.float16, 513, False),  # a copy would need memory
        (torch.bfloat16, 16, False),
        (torch.float32, 32, False),
    ],
)
def test_many_small_gradients_of_float16_are_copied(dtype: torch.dtype, count: int, as_rows: bool) -> None:
    size = 8_192 if dtype == torch.float16 else 4_096
    how = rows.division(elements(*[size] * count, dtype=dtype))
    assert how.small == list(range(count))
    assert how.small_as_rows is as_rows is how.any_long


@pytest.mark.parametrize(
    ("count", "longest", "length"),
    [
        (12_480, 104, 104),
        (9_600, 104, 96),
        (8_800, 104, 88),
        (8_000, 104, 80),
        (7_272, 104, 104),  # 72 would divide it, and is too short
        (131_072, 256, 256),
        (248_000, 256, 248),
        (1, 104, 104),
    ],
)
def test_the_length_of_rows_leaves_no_remainder_if_possible(count: int, longest: int, length: int) -> None:
    assert rows.length(count, longest) == length


@pytest.mark.parametrize(
    ("sizes", "runs"),
    [
        ([], []),
        ([10], [1]),
        ([32_767], [1]),
        ([16_384, 16_383], [2]),
        ([16_384, 16_384], [1, 1]),
        ([10_000] * 7, [3, 3, 1]),
        ([40_000, 10, 20], [1, 2]),  # which is larger by itself
        ([10, 40_000, 20], [1, 1, 1]),
    ],
)
def test_small_gradients_are_concatenated_up_to_the_grain(sizes: list[int], runs: list[int]) -> None:
    grads = elements(*sizes)
    together = list(rows.together(grads))
    assert list(map(len, together)) == runs
    assert [id(grad) for run in together for grad in run] == list(map(id, grads))


@pytest.mark.parametrize(
    ("shape", "parts"),
    [
        ((511, 64), [511]),
        ((512, 64), [511, 1]),
        ((1_022, 64), [511, 511]),
        ((3, 40_000), [1, 1, 1]),
        ((2, 16_384), [1, 1]),
    ],
)
def test_pieces_are_split_below_the_grain(shape: tuple[int, int], parts: list[int]) -> None:
    piece = torch.zeros(1, 1).expand(shape)
    assert [len(part) for part in rows.split([piece])] == parts
    several = [torch.zeros(1), torch.zeros(2)]
    assert list(rows.split([several])) == [several]


def test_columns_of_a_slice_are_matrices_if_it_is_high() -> None:
    def divided(high: int, wide: int) -> tuple[list[tuple[int, ...]], int]:
        grads = [torch.zeros(high, wide + 8)[:, 4:-4]]
        matrices, small = rows.divided(grads, rows.division(grads))
        assert sum(part.numel() for part in (*matrices, *small)) == high * wide
        return [tuple(matrix.shape) for matrix in matrices], len(small)

    assert divided(256, 700) == ([(256, 256), (256, 256), (256, 188)], 0)
    assert divided(255, 700)[0] == []
    assert divided(600, 257) == ([(600, 256), (600, 1)], 0)
    assert divided(600, 256) == ([(600, 256)], 0)


@pytest.mark.parametrize(
    "grad",
    [
        torch.zeros(3, 20_000)[:, ::2],
        torch.zeros(200, 700)[:, ::2],
        torch.zeros(50, 50, 50)[::2, :, ::2],
        torch.zeros(1, 80_000)[:, ::2],
        torch.zeros(80_000, 2)[:, :1],
        torch.zeros(32_767 * 2)[::2],
        torch.zeros(32_768 * 2)[::2],
    ],
)
def test_parts_of_a_gradient_with_gaps_are_below_the_grain(grad: torch.Tensor) -> None:
    parts = list(rows._parts(grad))
    assert sum(part.numel() for part in parts) == grad.numel()
    assert max(part.numel() for part in parts) < load.GRAIN
    assert len(parts) <= 2 * -(-grad.numel() // load.GRAIN) + 1
    assert (len(parts) == 1) is (grad.numel() < load.GRAIN)
    assert len({part.data_ptr() for part in parts}) == len(parts)


# --- the parts of the norm -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("norms", "order", "norm"),
    [
        ([3.0], 2.0, 3.0),
        ([math.nan], 2.0, math.nan),
        ([3.0, 4.0], 2.0, 5.0),
        ([3.0, 4.0], 1.0, 7.0),
        ([3.0, 4.0], INF, 4.0),
        ([3.0, 4.0], -INF, 3.0),
        ([1.0, 1.0], -1.0, 0.5),
        ([0.0, 0.0], 2.0, 0.0),
        ([0.0, 3.0], -1.0, 0.0),
        ([3e200, 4e200], 2.0, 5e200),
        ([3e-200, 4e-200], 2.0, 5e-200),
        ([1e200, 1e200], 3.0, 2 ** (1 / 3) * 1e200),
        ([INF, 1.0], 2.0, INF),
        ([math.nan, 1.0], 2.0, math.nan),
        ([1.0, math.nan], 2.0, math.nan),
        ([1.0, math.nan], INF, math.nan),
    ],
)
def test_norms_of_several_dtypes_are_one(norms: list[float], order: float, norm: float) -> None:
    assert cpu.combined(iter(norms), order) == pytest.approx(norm, rel=1e-14, nan_ok=True)


@pytest.mark.parametrize("order", [0.5, 1.0, 2.0, 3.0, 9.0, 30.0, INF, -1.0, -3.0, -30.0, -INF])
@pytest.mark.parametrize("special", [None, 0.0, INF, -INF, math.nan])
@pytest.mark.parametrize("scale", [1e30, 1.0, 1e-30])
@pytest.mark.parametrize("size", [4, 9_000])
def test_every_order_is_right_at_every_scale(order: float, special: float | None, scale: float, size: int) -> None:
    torch.manual_seed(size)
    grad = (torch.rand(size) + 0.5) * scale
    if special is not None:
        grad[2] = special
    want = reference.total_norm([grad], order)
    for found in (
        cpu.norm([[grad]], order),
        cpu.careful_norm([grad], order),
        cpu.norm([[grad[:2]], [grad[2:].double()]], order),
    ):
        if found != want:
            assert found == pytest.approx(want, rel=1e-7, nan_ok=True)


@pytest.mark.parametrize("order", [1.0, 2.0, 3.0, INF, -1.0, -INF])
def test_nothing_has_the_norm_0(order: float) -> None:
    empty = torch.zeros(0)
    for groups in ([[empty]], [[empty, empty]], [[empty], [empty.double()]], [[torch.zeros(0, dtype=torch.complex64)]]):
        assert cpu.norm(groups, order) == 0.0
    assert cpu.norm([[torch.zeros(3)]], order) == cpu.norm([[torch.zeros(9_000)]], order) == 0.0


@pytest.mark.parametrize(
    ("norm", "elements", "wide", "expected"),
    [
        (1.0, 1, False, True),
        (INF, 1, False, False),
        (math.nan, 1, False, False),
        (0.0, 1, False, False),
        (2e-15, 1, False, True),
        (5e-16, 1, False, False),
        (2e-15, 100, False, False),  # a mean square of 4e-32
        (2e-14, 100, False, True),
        (1e-100, 1, False, False),
        (1e-100, 1, True, True),
        (2e-145, 1, True, True),
        (5e-146, 1, True, False),
    ],
)
def test_whether_a_square_was_in_range(norm: float, elements: int, wide: bool, expected: bool) -> None:
    assert cpu._in_range(norm, elements, wide) is expected


@pytest.mark.parametrize(
    ("values", "repeat"),
    [
        ([], False),
        ([1.0], False),
        ([1.0, 2.0, 3.0], False),
        ([1.0, 1.0, 2.0, 3.0], False),  # by chance
        ([1.0, 1.0, 1.0], True),
        ([1.0, 1.0, 2.0, 2.0], True),
        ([0.0] * 8, False),
        ([0.0, 0.0, 0.0, 1.0, 2.0], False),
        ([0.0, 0.0, 1.0, 1.0, 1.0, 1.0], True),
    ],
)
def test_values_that_repeat(values: list[float], repeat: bool) -> None:
    assert cpu._repeats(values) is repeat


@pytest.mark.parametrize("step", [1, 2, 3, 4, 7, 20])
def test_every_so_many_rows_counted_over_all(step: int) -> None:
    every = torch.arange(24.0).view(12, 2)
    matrices = [every[:5], every[5:6], every[6:12]]
    found = torch.cat(list(cpu._every(matrices, step)))
    assert found.tolist() == every[::step].tolist()


def test_the_start_of_a_row_counted_over_all() -> None:
    numbers = -torch.arange(100.0).view(5, 20)
    matrices = [numbers[:2], numbers[2:]]
    for row in range(5):
        assert cpu._start_of_row(matrices, row) == [20.0 * row + at for at in range(16)]
    assert cpu._start_of_row(matrices, 5) == []


@pytest.mark.parametrize(
    ("value", "dtype", "expected"),
    [
        (3.0, torch.float32, 3.0),
        (cpu.LARGEST, torch.float32, cpu.LARGEST),
        (1e39, torch.float32, INF),
        (1e39, torch.float64, 1e39),
        (INF, torch.float64, INF),
        (math.nan, torch.float32, math.nan),
    ],
)
def test_a_number_that_a_dtype_has_not_is_infinite(value: float, dtype: torch.dtype, expected: float) -> None:
    made = cpu.scalar(value, dtype)
    assert (made.dtype, made.dim(), made.device.type) == (dtype, 0, "cpu")
    assert made.item() == pytest.approx(expected, nan_ok=True)


# --- threads ----------------------------------------------------------------------------------------------------------------


def sizes_of_operations(grads: list[torch.Tensor], norm_type: float = 2.0) -> list[int]:
    """The elements of what the norms and products of a clip work on."""
    sizes: list[int] = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if function in (torch.linalg.vector_norm, torch._foreach_mul_, torch.aminmax):
                tensors = args[0] if isinstance(args[0], list) else [args[0]]
                sizes.extend(tensor.numel() for tensor in tensors)
            return function(*args, **(kwargs or {}))

    params = params_of(grads)
    with Watch():
        runtime.clip_grad_norm_(params, 1e-3, norm_type)
    return sizes


@pytest.mark.parametrize(
    "shape", [(32_768,), (32_767,), (32_769,), (128, 256), (256, 128), (64, 513), (2, 16_384), (40_000,)]
)
@pytest.mark.parametrize("busy", [True, False])
def test_an_operation_is_on_all_threads_only_if_cores_are_free(
    shape: tuple[int, ...], busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "is_serial_better", lambda: busy)
    grads = [torch.randn(shape), torch.randn(100)]
    want = reference.clipped(grads, 1e-3)
    sizes = sizes_of_operations(grads)
    has_large = max(sizes) >= load.GRAIN
    assert has_large is (not busy and math.prod(shape) >= load.GRAIN)
    for grad, exact in zip(grads, want, strict=True):
        torch.testing.assert_close(grad.double(), exact, rtol=1e-5, atol=0)


def test_small_gradients_do_not_ask_whether_cores_are_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading it takes as long as their norm."""
    monkeypatch.setattr(cpu, "is_serial_better", lambda: 1 / 0)
    grads = [torch.randn(32_767), torch.randn(300, 100), torch.randn(16_000).bfloat16(), torch.randn(30_000).double()]
    runtime.clip_grad_norm_(params_of(grads), 1e-3)
    with pytest.raises(ZeroDivisionError):
        runtime.clip_grad_norm_(params_of([torch.randn(32_768)]), 1e-3)


def test_the_plans_used_last_come_first_and_none_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_plan, "_plans", ())
    made = [cpu_plan.plan_for([torch.zeros(size)]) for size in (3, 4, 5, 6)]
    first, second, third, fourth = made
    assert cpu_plan._plans == (fourth, third, second, first)
    assert cpu_plan.plan_for([torch.ones(4)]) is second
    assert cpu_plan._plans == (second, fourth, third, first)
    assert cpu_plan.plan_for([torch.ones(4)]) is second
    assert cpu_plan._plans == (second, fourth, third, first)


def test_a_plan_has_the_gradients_of_each_dtype_together() -> None:
    grads = [
        torch.ones(3),
        torch.ones(3).half(),
        torch.ones(4),
        torch.ones(2, dtype=torch.complex64),
        torch.ones(0).half(),
    ]
    plan = cpu_plan.plan_for(grads)
    assert plan is not None
    groups = plan.groups(grads)
    assert [[id(grad) for grad in group] for group in groups] == [
        [id(grads[at]) for at in members] for members in ([0, 2], [1, 4], [3])
    ]
    assert [division is None for division in plan.divisions] == [False, True, True]  # empty, or complex
    assert (plan.count, plan.dtype) == (5, torch.float32)
    alone = cpu_plan.plan_for(grads[:1])
    assert alone is not None and alone.groups(grads[:1]) == [grads[:1]]
    for dtype in (torch.float64, torch.complex128):
        wide = cpu_plan.plan_for([grads[0], torch.ones(2, dtype=dtype)])
        assert wide is not None and wide.dtype == torch.float64


@pytest.mark.parametrize(
    "grad", [torch.ones(3).int(), torch.ones(3, device="meta"), torch.ones(3).to_sparse(), torch.ones(3).bool()]
)
def test_other_gradients_have_no_plan(grad: torch.Tensor) -> None:
    assert cpu_plan.plan_for([torch.ones(2), grad]) is cpu_plan.plan_for([grad]) is None
