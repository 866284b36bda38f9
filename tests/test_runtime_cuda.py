"""The CUDA clip: on a GPU if there is one, and its kernels in Triton's interpreter on the CPU."""

from __future__ import annotations

import gc
import importlib.util
import math
import os
import subprocess
import sys
import weakref

import interpreted
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from clipcheck import runtime  # noqa: E402
from clipcheck.runtime import reference  # noqa: E402

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
ROUNDING = {torch.float16: 1e-3, torch.bfloat16: 8e-3}


def params_of(grads: list[torch.Tensor]) -> list[torch.Tensor]:
    params = []
    for grad in grads:
        param = nn.Parameter(torch.empty_like(grad))
        param.grad = grad
        params.append(param)
    return params


def check(grads: list[torch.Tensor], max_norm: float, norm_type: float = 2.0) -> None:
    before = [grad.clone() for grad in grads]
    want = reference.total_norm(before, norm_type)
    exact = 1e-7 if grads[0].is_complex() else 1e-12  # a complex modulus is rounded to float32
    assert runtime.grad_norm(params_of(before), norm_type).item() == pytest.approx(want, rel=exact)
    norm = runtime.clip_grad_norm_(params_of(grads), max_norm, norm_type)
    assert norm.device == grads[0].device
    assert norm.item() == pytest.approx(want, rel=2e-7)
    for grad, clipped in zip(grads, reference.clipped(before, max_norm, norm_type), strict=True):
        smallest = 1e-7 if grad.dtype == torch.float16 else 0
        torch.testing.assert_close(
            grad.cpu().to(clipped.dtype), clipped, rtol=ROUNDING.get(grad.dtype, 3e-7), atol=smallest
        )


def random(*shape: int, dtype: torch.dtype = torch.float32, scale: float = 1.0) -> torch.Tensor:
    wide = dtype if dtype.is_complex else torch.float32
    return (torch.randn(shape, device="cuda", dtype=wide) * scale).to(dtype)


@needs_gpu
@pytest.mark.parametrize("norm_type", [0.5, 1.0, 2.0, 3.0, math.inf])
@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64], ids=str
)
def test_agrees_with_the_reference(dtype: torch.dtype, norm_type: float) -> None:
    for scale in (1.0,) if dtype == torch.float16 or norm_type in (0.5, 3.0) else (1.0, 1e30, 1e-30):
        for max_norm in (1e-3, 1e35):
            check([random(*s, dtype=dtype, scale=scale) for s in ((5,), (200, 301), (1,), (0,))], max_norm, norm_type)


@needs_gpu
def test_mixed_dtypes_views_and_odd_addresses() -> None:
    check([random(1000, dtype=d) for d in (torch.float32, torch.bfloat16, torch.float16, torch.float64)] * 3, 0.1)
    flat = random(300_003)
    check([flat[1:100_000], flat[100_001:100_004], flat[100_007:250_001]], 0.1)
    check([random(100_001, dtype=torch.bfloat16)[1:]], 0.1)
    check([random(8, 16, 5, 5).contiguous(memory_format=torch.channels_last), random(64, 128).t()], 0.1)
    check([random(64, 128)[:, ::2], random(10)], 0.1)
    check([random(1000), torch.randn(500)], 0.1)
    check([torch.randn(500), random(1000)], 0.1, math.inf)


def in_the_place_of_each_other(memory: torch.Tensor) -> list[torch.Tensor]:
    """Gradients at the same address that differ in one property each; `memory` is 1-D and float32."""
    return [
        memory[:64],
        memory[:65],
        memory.view(torch.bfloat16)[:64],
        memory.view(torch.float64)[:64],
        memory[:64].view(8, 8),
        memory[:64].view(8, 8).t(),
        memory[:128].view(torch.complex64),
        memory[:128][::2],
        memory[:1].expand(1),
        memory[:0],
    ]


@needs_gpu
def test_changed_gradients_are_not_mistaken_for_earlier_ones() -> None:
    memory, other = random(1000), random(7)
    for _ in range(3):
        for grad in in_the_place_of_each_other(memory):
            check([grad.normal_(), other.normal_()], 0.1)
            check([other.normal_(), grad.normal_()], 0.1)
    check([memory[:64], other.cpu()], 0.1)
    check([memory[:64].cpu(), other], 0.1)
    sparse = torch.eye(8, device="cuda").to_sparse()
    assert runtime.clip_grad_norm_(params_of([sparse]), 99.0).item() == pytest.approx(math.sqrt(8))


def refuses(varying: tuple[object, ...]) -> None:
    """A launch in a Triton with other arguments."""
    raise TypeError("function takes exactly 27 arguments")


@needs_gpu
def test_later_calls_are_launched_like_the_first() -> None:
    """The second call of a plan bypasses Triton's check of the arguments; no argument may be frozen by that."""
    from clipcheck.runtime import cuda, cuda_plan

    for _ in range(3):
        for norm_type in (2.0, math.inf, 1.0):
            for max_norm in (1e9, 0.5, 1.0, 3, 1e-3):
                check([random(1000), random(70_000, dtype=torch.bfloat16), random(3)], max_norm, norm_type)
    grads = [random(1000), random(70_000, dtype=torch.bfloat16), random(3)]
    assert runtime.get_total_norm(grads).dtype == torch.float32
    assert runtime.grad_norm(params_of(grads)).dtype == torch.float64
    for known in torch.tensor([9.0, 1e9, 2.0], device="cuda", dtype=torch.float64):  # the second is not aligned
        before = [grad.clone() for grad in grads]
        runtime.clip_grads_with_norm_(params_of(grads), 4.0, known)
        for grad, old in zip(grads, before, strict=True):
            torch.testing.assert_close(grad, (old.double() * min(1.0, 4.0 / (known.item() + 1e-6))).to(grad.dtype))
    (feed,) = cuda_plan._plans[0].feeds.values()
    assert bool(feed.launches) == cuda.TAKES_CONSTANTS
    feed.launches.update(dict.fromkeys(feed.launches, refuses))
    for _ in range(2):
        check(grads, 0.25)


@needs_gpu
def test_no_gradient_is_kept_alive() -> None:
    params = params_of([random(1000), random(5)])
    before = torch.cuda.memory_allocated()
    params += params_of([random(100_000)])
    runtime.clip_grad_norm_(params, 1e-3)
    runtime.get_total_norm([p.grad for p in params])
    references = [weakref.ref(p.grad) for p in params]
    for p in params:
        p.grad = None
    gc.collect()
    assert [reference() for reference in references] == [None] * 3
    assert torch.cuda.memory_allocated() < before + 500_000


@needs_gpu
def test_a_repeated_parameter_counts_once() -> None:
    first, second = params_of([torch.tensor([3.0, 4.0], device="cuda"), random(2)])
    runtime.clip_grad_norm_([first, second], 1e9)
    for _ in range(2):
        with pytest.warns(UserWarning, match="more than once"):
            assert runtime.clip_grad_norm_([first, first], 1e9).item() == 5.0
    second.grad = first.grad  # two parameters, one gradient: counted twice, scaled once
    assert runtime.clip_grad_norm_([first, second], 1.0).item() == pytest.approx(math.sqrt(50))
    assert first.grad.norm().item() == pytest.approx(5 / math.sqrt(50), rel=1e-6)


@needs_gpu
def test_frozen_parameters_and_parameters_without_gradients() -> None:
    params = params_of([random(30), random(40), random(50)])
    for missing in (None, 0, 1, 2, None):
        grads = [random(30), random(40), random(50)]
        for index, (p, grad) in enumerate(zip(params, grads, strict=True)):
            p.grad = None if index == missing else grad
        want = reference.total_norm([p.grad for p in params if p.grad is not None])
        assert runtime.clip_grad_norm_(params, 1.0).item() == pytest.approx(want, rel=2e-7)
    assert runtime.clip_grad_norm_([nn.Parameter(torch.zeros(2, device="cuda"))], 1.0).item() == 0.0


@needs_gpu
def test_in_inference_mode_and_out_of_it() -> None:
    params = params_of([random(300), random(70)])
    for mode in (torch.inference_mode, torch.enable_grad, torch.inference_mode, torch.no_grad):
        with mode():
            for p in params:
                p.grad = random(*p.shape)
            want = reference.total_norm([p.grad for p in params])
            assert runtime.clip_grad_norm_(params, 1.0).item() == pytest.approx(want, rel=2e-7)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
@pytest.mark.parametrize("norm_type", [0.0, 1.0, 2.0, 3.0, math.inf])
def test_several_devices(norm_type: float) -> None:
    def spread() -> list[torch.Tensor]:
        first = [random(300, 40), random(7, dtype=torch.bfloat16)]
        second = [random(500, dtype=torch.complex64 if norm_type == 2 else torch.float32), random(90_000)]
        return [*first, *(grad.to("cuda:1") for grad in second), torch.randn(33)]

    for order in (1, -1):
        for max_norm in (1e-3, 1e35):
            grads = spread()[::order]
            before = [grad.clone() for grad in grads]
            want = reference.total_norm(before, norm_type)
            assert runtime.get_total_norm(grads, norm_type).item() == pytest.approx(want, rel=2e-7)
            norm = runtime.clip_grad_norm_(params_of(grads), max_norm, norm_type)
            assert norm.device == grads[0].device
            assert norm.item() == pytest.approx(want, rel=2e-7)
            for grad, clipped in zip(grads, reference.clipped(before, max_norm, norm_type), strict=True):
                torch.testing.assert_close(
                    grad.cpu().to(clipped.dtype), clipped, rtol=ROUNDING.get(grad.dtype, 5e-7), atol=0
                )


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_gradients_on_another_device_than_the_current_one() -> None:
    assert torch.cuda.current_device() == 0
    for _ in range(3):
        grads = [random(300, 40).to("cuda:1"), random(70).to("cuda:1")]
        before = [grad.clone() for grad in grads]
        total = runtime.get_total_norm(grads)
        assert total.device == grads[0].device
        runtime.clip_grads_with_norm_(params_of(grads), 0.5, total.to("cuda:0"))
        for grad, clipped in zip(grads, reference.clipped(before, 0.5), strict=True):
            torch.testing.assert_close(grad.cpu().double(), clipped, rtol=3e-7, atol=0)
        check([random(300, 40).to("cuda:1"), random(70).to("cuda:1")], 0.1)
    assert torch.cuda.current_device() == 0


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_the_host_never_synchronizes_with_several_devices() -> None:
    params = params_of([random(1000), random(500).to("cuda:1")])
    runtime.clip_grad_norm_(params, 1.0)
    for device in (0, 1):
        torch.cuda.synchronize(device)
    torch.cuda.set_sync_debug_mode("error")
    try:
        runtime.clip_grad_norm_(params, 0.5)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@needs_gpu
def test_overlapping_gradients_as_in_torch() -> None:
    ours = random(100_000)
    theirs = ours.clone()
    norm = runtime.clip_grad_norm_(params_of([ours[:60_000], ours[30_000:]]), 1.0)
    expected = torch.nn.utils.clip_grad_norm_(params_of([theirs[:60_000], theirs[30_000:]]), 1.0)
    torch.testing.assert_close(norm, expected)
    torch.testing.assert_close(ours, theirs)


@needs_gpu
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, math.inf])
def test_nonfinite_norms_spread_as_in_torch(bad: float, norm_type: float) -> None:
    ours = [random(100), random(77)]
    ours[0][3] = bad
    theirs = [grad.clone() for grad in ours]
    norm = runtime.clip_grad_norm_(params_of(ours), 1.0, norm_type)
    torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_(params_of(theirs), 1.0, norm_type), equal_nan=True)
    torch.testing.assert_close(ours, theirs, equal_nan=True)


@needs_gpu
def test_more_than_two_to_the_31_elements() -> None:
    if torch.cuda.mem_get_info()[0] < 6e9:
        pytest.skip("needs 6 GB of GPU memory")
    elements = 2**31 + 12_345
    grad = torch.full((elements,), 0.5, device="cuda", dtype=torch.bfloat16)
    grad[-1] = 3.0
    want = math.sqrt((elements - 1) * 0.25 + 9)
    assert runtime.clip_grad_norm_(params_of([grad]), want / 2).item() == pytest.approx(want, rel=2e-7)
    assert [grad[at].item() for at in (0, elements // 2, -1)] == [0.25, 0.25, 1.5]


@needs_gpu
@pytest.mark.parametrize("bad", [1.0, math.nan])
def test_the_norm_of_many_elements_changes_nothing(bad: float) -> None:
    """Above a certain size, the norm uses the two kernels of the clip."""
    from clipcheck.runtime import cuda, cuda_plan

    grads = [torch.full(((cuda.MANY + 1) * cuda_plan.CHUNK,), 0.5, device="cuda", dtype=torch.bfloat16), random(5)]
    grads[0][-1] = bad
    before = [grad.clone() for grad in grads]
    torch.testing.assert_close(
        runtime.get_total_norm(grads).item(), reference.total_norm(grads), rtol=2e-7, atol=0, equal_nan=True
    )
    torch.testing.assert_close(grads, before, rtol=0, atol=0, equal_nan=True)


@needs_gpu
def test_the_host_never_synchronizes() -> None:
    grads = [random(1000, 1000), random(64, dtype=torch.bfloat16)]
    params = params_of(grads)
    runtime.clip_grad_norm_(params, 1.0)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        runtime.clip_grad_norm_(params, 0.5)
        runtime.grad_norm(params)
        runtime.clip_grads_with_norm_(params, 0.1, runtime.get_total_norm(grads))
        runtime.clip_grad_norm_(params_of([torch.empty(123, device="cuda").normal_()]), 0.1)  # sizes never met
        runtime.clip_grad_norm_(params, 0.1, 3.0)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def cuda_plans() -> list[object]:
    from clipcheck.runtime import cuda_plan

    return cuda_plan._captured


@needs_gpu
@pytest.mark.parametrize("warm", [True, False])
def test_in_a_cuda_graph_mixed_with_eager_calls(warm: bool) -> None:
    params = params_of([random(1031 + warm, 97), random(7919), random(6113 + warm, dtype=torch.bfloat16)])
    if warm:
        runtime.clip_grad_norm_(params, 1.0)
    for _ in range(2):
        if not warm:  # else the capture meets the addresses of the eager call before it
            for p in params:
                p.grad = torch.randn_like(p)
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph):
            held = len(cuda_plans())
            norm = runtime.clip_grad_norm_(params, 1.0)
        assert len(cuda_plans()) == held + warm  # warm: the kernels; cold: torch's functions
        warm = True
        captured = [p.grad for p in params]
        for _ in range(3):
            for grad in captured:
                grad.normal_()
            before = [grad.clone() for grad in captured]
            graph.replay()
            assert norm.item() == pytest.approx(reference.total_norm(before), rel=2e-7)
            for grad, clipped in zip(captured, reference.clipped(before, 1.0), strict=True):
                torch.testing.assert_close(grad.cpu().double(), clipped, rtol=ROUNDING.get(grad.dtype, 3e-7), atol=0)
            for p in params:  # an eager call on other memory must not disturb the graph
                p.grad = torch.randn_like(p)
            runtime.clip_grad_norm_(params, 1.0)


@needs_gpu
def test_bitwise_repeatable_on_every_stream() -> None:
    params = params_of([random(1000, 1000) for _ in range(20)])
    torch.cuda.synchronize()
    norms = []
    for _ in range(10):
        with torch.cuda.stream(torch.cuda.Stream()):
            norms.append(runtime.grad_norm(params))
    torch.cuda.synchronize()
    assert len({norm.item() for norm in norms}) == 1


@needs_gpu
def test_compiles_into_one_graph() -> None:
    grads = [random(1000), random(500)]
    want = reference.total_norm(grads)
    norm = torch.compile(runtime.clip_grad_norm_, fullgraph=True)(params_of(grads), 1.0)
    assert norm.item() == pytest.approx(want, rel=2e-7)
    assert reference.total_norm(grads) == pytest.approx(1.0, rel=1e-5)


INTERPRETED = """
import math
import interpreted, torch
from clipcheck.runtime import cuda, reference
from clipcheck.runtime.looks import look, properties

interpreted.install()

def close(got, want, dtype):
    rtol = {torch.bfloat16: 8e-3, torch.float16: 1e-3}.get(dtype, 3e-7)
    torch.testing.assert_close(got.to(want.dtype), want, rtol=rtol, atol=1e-7 if dtype == torch.float16 else 0)

torch.manual_seed(0)
for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
    for norm_type in (1.0, 2.0, math.inf):
        for scale in (1,) if dtype == torch.float16 else (1, 1e30, 1e-30):
            for max_norm in (0.5, 1e35):
                whole = (torch.randn(100) * scale).to(dtype)
                edges = [whole[:3].clone(), whole[90:].clone()]  # not ours to write
                grads = [(torch.randn(n) * scale).to(dtype) for n in (5, 64, 200, 1, 0)] + [whole[3:90]]
                before = [grad.clone() for grad in grads]
                want = reference.total_norm(before, norm_type)
                for cuda.MANY in (0, 1000):  # two launches, one launch
                    assert abs(cuda.norm(grads, norm_type, torch.float64).item() / want - 1) < 1e-14
                assert abs(cuda.clip_(grads, norm_type, max_norm).item() / want - 1) < 1e-7
                for grad, clipped in zip(grads, reference.clipped(before, max_norm, norm_type)):
                    close(grad, clipped, dtype)
                assert torch.equal(whole[:3], edges[0]) and torch.equal(whole[90:], edges[1])

every = [torch.randn(5), torch.randn(33).bfloat16(), torch.randn(300), torch.randn(70, dtype=torch.complex64).conj()]
before = [grad.clone() for grad in every]
assert cuda.clip_(every, 1.0, 1.0) is None  # a complex modulus is not summed here
assert abs(cuda.norm(every, 2.0).item() / reference.total_norm(before) - 1) < 1e-7
assert abs(cuda.clip_(every, 2.0, 1.0).item() / reference.total_norm(before) - 1) < 1e-7
for grad, clipped in zip(every, reference.clipped(before, 1.0)):
    close(grad, clipped, grad.dtype)

for bad in (math.nan, math.inf):
    for norm_type in (1.0, 2.0, math.inf):
        ours = [torch.randn(70), torch.tensor([bad, 1.0])]
        params = [torch.zeros_like(grad, requires_grad=True) for grad in ours]
        for p, grad in zip(params, ours):
            p.grad = grad.clone()
        want = torch.nn.utils.clip_grad_norm_(params, 1.0, norm_type)
        torch.testing.assert_close(cuda.clip_(ours, norm_type, 1.0), want, equal_nan=True)
        torch.testing.assert_close(ours, [p.grad for p in params], equal_nan=True)
        for skip in (lambda grads: cuda.clip_(grads, norm_type, 1.0, skips=True), lambda grads: cuda.scale_(grads, torch.tensor(bad), 1.0, skips=True)):
            ours = [torch.randn(70), torch.tensor([bad, 1.0]), torch.randn(300).bfloat16()]
            assert skip(ours) is not False
            assert [grad.count_nonzero() for grad in ours] == [0, 0, 0]
        ours = [torch.randn(70), torch.randn(300).bfloat16()]
        want = reference.clipped([grad.clone() for grad in ours], 1.0, norm_type)
        cuda.clip_(ours, norm_type, 1.0, skips=True)
        for grad, clipped in zip(ours, want):
            close(grad, clipped, grad.dtype)

memory, other = torch.randn(1000), torch.randn(70)
look_alikes = [memory[:64], memory[:65], memory.view(torch.bfloat16)[:64], memory.view(torch.float64)[:64],
    memory[:64].view(8, 8).t(), memory[:128].view(torch.complex64), memory[:0]]
for _ in range(2):
    for grad in look_alikes:
        assert abs(cuda.norm([grad.normal_(), other], 2.0).item() / reference.total_norm([grad, other]) - 1) < 1e-7
        for looks in (look([grad, other]), lambda a, b: [*map(properties, (a, b))] == [*map(properties, (grad, other))]):
            assert [looks(each, other) for each in look_alikes] == [each is grad for each in look_alikes]
assert cuda.norm([memory[:128][::2], other], 2.0) is None  # gaps

known = [torch.randn(100)]
before = known[0].clone()
assert cuda.scale_(known, torch.tensor(4.0), 1.0)
torch.testing.assert_close(known[0], before / 4, rtol=1e-6, atol=0)
assert cuda.clip_([known[0][:60], known[0][30:]], 2.0, 1.0) is None
print("interpreted")
"""


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs triton")
def test_the_kernels_in_tritons_interpreter() -> None:
    """Dtypes, norms, scales, unaligned and empty gradients, NaN and infinity: the same kernels, run by numpy."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.path.dirname(__file__)}
    done = subprocess.run([sys.executable, "-c", INTERPRETED], capture_output=True, text=True, env=environment)
    if any(lack in done.stderr for lack in interpreted.LACKING):
        pytest.skip("the interpreter of this Triton has no float64, or does not work with this numpy")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "interpreted\n"
