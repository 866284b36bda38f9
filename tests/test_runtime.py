"""The runtime compared with the float64 reference and with torch, including the edge cases of torch's contract."""

from __future__ import annotations

import gc
import inspect
import itertools
import math
import re
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import nn  # noqa: E402

from clipcheck import runtime  # noqa: E402
from clipcheck.runtime import as_torch, cpu, plain, reference, sixteen  # noqa: E402

torch_clip = torch.nn.utils.clip_grad_norm_
INF = math.inf
NORM_TYPES = (0.5, 1.0, 2.0, 3.0, INF, -1.0, -INF)
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64, torch.complex128)
# One rounding of the stored gradient, and one of a float32 coefficient.
ROUNDING = {torch.float16: 1e-3, torch.bfloat16: 8e-3}


def params_of(grads: list[torch.Tensor]) -> list[torch.Tensor]:
    params = []
    for grad in grads:
        param = nn.Parameter(torch.empty(grad.shape, dtype=grad.dtype, device=grad.device))
        param.grad = grad
        params.append(param)
    return params


def random(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, scale: float = 1.0) -> torch.Tensor:
    wide = torch.complex64 if dtype.is_complex else torch.float32
    return (torch.randn(shape, dtype=wide) * scale).to(dtype)


def check(grads: list[torch.Tensor], max_norm: float, norm_type: float = 2.0) -> None:
    """Clips the gradients and compares with the float64 reference."""
    before = [grad.clone() for grad in grads]
    want = reference.total_norm(before, norm_type)
    assert runtime.grad_norm(params_of(grads), norm_type).item() == pytest.approx(want, rel=1e-7)
    norm = runtime.clip_grad_norm_(params_of(grads), max_norm, norm_type)
    if want < 3e38:
        assert norm.item() == pytest.approx(want, rel=2e-7)
    for grad, clipped in zip(grads, reference.clipped(before, max_norm, norm_type), strict=True):
        rtol = ROUNDING.get(grad.dtype, 5e-7)
        smallest = 1e-7 if grad.dtype == torch.float16 else 1e-44
        torch.testing.assert_close(grad.to_dense().to(clipped.dtype), clipped, rtol=rtol, atol=smallest)


@pytest.mark.parametrize("norm_type", NORM_TYPES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("clips", [False, True])
def test_agrees_with_the_reference(dtype: torch.dtype, norm_type: float, clips: bool) -> None:
    torch.manual_seed(0)
    shapes = [(3, 4), (300, 301), (7,), (0,), (), (20_001,)]
    grads = [random(shape, dtype) for shape in shapes]
    norm = reference.total_norm(grads, norm_type)
    check(grads, norm / 3 if clips else norm * 3, norm_type)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64, torch.complex64], ids=str)
@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, INF])
def test_no_square_overflows_or_vanishes(dtype: torch.dtype, scale: float, norm_type: float) -> None:
    torch.manual_seed(1)
    grads = [random((5,), dtype, scale), random((100, 200), dtype, scale)]
    check(grads, reference.total_norm(grads, norm_type) / 2, norm_type)


def test_float16_beyond_65504_is_clipped_where_torch_zeroes() -> None:
    grads = [torch.full((1000,), 6e4, dtype=torch.float16)]
    torch_clip(params_of(theirs := [grads[0].clone()]), 1.0)
    assert theirs[0].count_nonzero() == 0
    check(grads, 1.0)
    assert grads[0].count_nonzero() == 1000


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [2, 100_000])
def test_a_norm_above_the_range_of_float32_is_infinite_and_the_gradients_are_clipped(
    dtype: torch.dtype, size: int
) -> None:
    grads = [torch.full((size,), 3e38).to(dtype)]
    exact = reference.total_norm(grads)
    assert exact > torch.finfo(torch.float32).max
    want = reference.clipped(grads, 1.0)
    assert runtime.get_total_norm(grads).item() == INF
    assert runtime.grad_norm(params_of(grads)).item() == pytest.approx(exact, rel=1e-7)
    assert runtime.clipped_grads(params_of(grads), 1.0).norm.item() == INF
    assert runtime.clip_grad_norm_(params_of(grads), 1.0).item() == INF
    torch.testing.assert_close(grads[0].double(), want[0], rtol=1e-2, atol=0)  # the coefficient is a denormal number


@pytest.mark.parametrize("norm_type", [1e-320, 1e-5, 1e-3, 0.01])
@pytest.mark.parametrize("size", [3, 50_000])
def test_a_norm_of_an_order_near_0_is_infinite(norm_type: float, size: int) -> None:
    grads = [torch.full((size,), 0.5)]
    assert runtime.clip_grad_norm_(params_of([grads[0].clone()]), 1.0, norm_type).item() == INF
    assert torch.nn.utils.clip_grad_norm_(params_of(grads), 1.0, norm_type).item() == INF


@pytest.mark.parametrize("value", [0.1, 0.3, 1.7, 3.3333e-3])
@pytest.mark.parametrize("norm_type", [1.0, 2.0])
def test_constant_gradients_keep_seven_digits(value: float, norm_type: float) -> None:
    """The worst case for sums in float32: all rounding errors have the same sign. torch loses three digits here."""
    constant = torch.full((4_000_000,), value)
    columns = (torch.rand(768, generator=torch.Generator().manual_seed(1)) * value).expand(2000, 768).contiguous()
    noisy = constant * (1 + 1e-5 * torch.randn(4_000_000, generator=torch.Generator().manual_seed(2)))
    for grads in (
        [constant],
        [constant[:9_000]],
        [constant[:140_000]],
        [constant, constant[:600_000] / 3],
        [columns],
        [noisy],
    ):
        want = reference.total_norm(grads, norm_type)
        assert abs(runtime.grad_norm(params_of(grads), norm_type).item() / want - 1) < 1e-7
    for dtype in (torch.float16, torch.bfloat16):
        low = [constant.to(dtype)]
        assert (
            abs(runtime.grad_norm(params_of(low), norm_type).item() / reference.total_norm(low, norm_type) - 1) < 1e-7
        )
    of_torch = torch.nn.utils.clip_grad_norm_(params_of([constant.clone()]), 1.0).item()
    assert abs(of_torch / reference.total_norm([constant]) - 1) > 1e-5


@pytest.mark.parametrize("elements", [8_192, 20_000, 131_072, 131_073, 300_001, 3_000_001])
def test_random_gradients_keep_seven_digits(elements: int) -> None:
    generator = torch.Generator().manual_seed(elements)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for norm_type in (1.0, 2.0, INF):
            for grad in (torch.randn(elements, generator=generator), torch.rand(elements, generator=generator) + 0.5):
                grads = [grad.to(dtype)]
                want = reference.total_norm(grads, norm_type)
                assert abs(runtime.grad_norm(params_of(grads), norm_type).item() / want - 1) < 1e-7


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("values", [1, 2, 3, 4, 8, 16, 64])
def test_gradients_of_few_values_keep_seven_digits(values: int, dtype: torch.dtype) -> None:
    """Signs, masks and quantized gradients: sums of few distinct values are always rounded in the same direction."""
    generator = torch.Generator().manual_seed(values)
    for scale in (1.0, 0.01, 3e-4):
        level = torch.rand(values, generator=generator) * scale
        for shape in ((2_000_000,), (1000, 1000), (300_007,)):
            which = torch.randint(values, shape, generator=generator)
            grads = [level.to(dtype)[which]]
            want = reference.total_norm(grads)
            assert abs(runtime.grad_norm(params_of(grads)).item() / want - 1) < 1e-7


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kernel", [True, False])
def test_16_bit_gradients_with_and_without_the_kernel_of_torch(
    dtype: torch.dtype, kernel: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Older builds of torch may not have one that sums them in float32."""
    assert sixteen.has_squares(dtype)
    monkeypatch.setattr(sixteen, "has_squares", lambda _: kernel)
    monkeypatch.setattr(cpu, "is_serial_better", lambda: False)
    grads = [
        grad.to(dtype) for grad in (torch.randn(900, 1000), torch.randn(700, 600).T, torch.randn(1300, 900)[:, ::2])
    ]
    for norm_type in (1.0, 2.0, INF):
        got = runtime.grad_norm(params_of(grads), norm_type).item()
        assert abs(got / reference.total_norm(grads, norm_type) - 1) < 1e-7
    for bad in (math.inf, -math.inf, math.nan):
        grads[0][3, 5] = bad
        assert str(runtime.grad_norm(params_of(grads)).item()) == str(abs(bad))
    largest = [torch.full((600, 600), torch.finfo(dtype).max, dtype=dtype)]
    assert runtime.grad_norm(params_of(largest)).item() == pytest.approx(600 * torch.finfo(dtype).max, rel=1e-7)


def test_small_gradients_are_as_accurate_as_python_floats() -> None:
    """`.item()` must not be less accurate than the loop of Python floats that it replaces."""
    torch.manual_seed(2)
    for count in (1, 5, 6, 63):
        params = params_of([random((64,)) for _ in range(count)])
        got = runtime.grad_norm(params).item()
        assert got == pytest.approx(reference.total_norm([p.grad for p in params]), rel=1e-14)
    assert runtime.grad_norm(nn.Parameter(torch.zeros(2))).item() == 0.0


def memory_formats() -> list[torch.Tensor]:
    base = torch.randn(400, 500)
    return [
        base.t(),
        base[:, ::2],
        base[1:, 3:],
        base.view(-1)[1:150_000],
        torch.randn(8, 32, 20, 20).contiguous(memory_format=torch.channels_last),
        torch.randn(3, 4, 5, 6, 7).permute(4, 0, 2, 1, 3),
        torch.randn(2000, 1500)[:, 7:1400],
    ]


def test_every_memory_layout() -> None:
    torch.manual_seed(3)
    for grad in memory_formats():
        check([grad, torch.randn(3)], 0.5)


def test_an_expanded_gradient_is_measured_and_scaled_or_refused_as_in_torch() -> None:
    expanded = torch.ones(1).expand(5)
    assert runtime.get_total_norm([expanded]).item() == pytest.approx(math.sqrt(5), rel=1e-7)
    with pytest.raises(RuntimeError, match="single memory location"):
        runtime.clip_grad_norm_(params_of([expanded]), 0.1)


def test_lazily_conjugated_gradients() -> None:
    """torch's own clip raises for them."""
    check([torch.randn(200, 100, dtype=torch.complex64).conj(), torch.randn(3)], 0.5)


def test_uncoalesced_sparse_gradients() -> None:
    grad = torch.sparse_coo_tensor(torch.tensor([[1, 1, 4]]), torch.tensor([1.0, 2.0, 4.0]), (6,))
    assert runtime.clip_grad_norm_(params_of([grad, torch.zeros(3)]), 1.0).item() == pytest.approx(5.0)
    torch.testing.assert_close(grad.to_dense(), torch.tensor([0, 0.6, 0, 0, 0.8, 0]), rtol=1e-6, atol=0)
    embedding = nn.Embedding(10, 3, sparse=True)
    embedding(torch.tensor([1, 1, 2])).square().sum().backward()
    want = embedding.weight.grad.to_dense().norm().item()
    assert runtime.clip_grad_norm_(embedding.parameters(), 1e9).item() == pytest.approx(want)


def test_nothing_is_written_when_nothing_is_clipped() -> None:
    grad = torch.randn(100)
    version = grad._version
    runtime.clip_grad_norm_(params_of([grad]), 1e9)
    assert grad._version == version


@pytest.mark.parametrize("bad", [math.nan, INF, -INF])
@pytest.mark.parametrize("max_norm", [1.0, 0.0, -1.0, INF, math.nan])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, INF])
def test_nonfinite_norms_spread_as_in_torch(bad: float, max_norm: float, norm_type: float) -> None:
    ours = [torch.randn(30), torch.randn(40, 300)]
    ours[1][2, 3] = bad
    theirs = [grad.clone() for grad in ours]
    norm = runtime.clip_grad_norm_(params_of(ours), max_norm, norm_type)
    torch.testing.assert_close(norm, torch_clip(params_of(theirs), max_norm, norm_type), equal_nan=True)
    torch.testing.assert_close(ours, theirs, equal_nan=True)
    with pytest.raises(RuntimeError, match="non-finite"):
        runtime.clip_grad_norm_(params_of(ours), 1.0, norm_type, error_if_nonfinite=True)


@pytest.mark.parametrize("norm_type", [0, 0.0, "inf", "2", 2, True])
def test_norm_types_as_torch_reads_them(norm_type: object) -> None:
    ours = [torch.randn(30), torch.zeros(5), torch.randn(4, 3)]
    theirs = [grad.clone() for grad in ours]
    norm = runtime.clip_grad_norm_(params_of(ours), 0.5, norm_type)
    torch.testing.assert_close(norm, torch_clip(params_of(theirs), 0.5, norm_type))
    torch.testing.assert_close(ours, theirs)


def test_one_tensor_no_tensor_and_none_gradients() -> None:
    (param,) = params_of([torch.tensor([3.0, 4.0])])
    assert runtime.clip_grad_norm_(param, 1.0).item() == 5.0
    assert runtime.get_total_norm(torch.tensor([3.0, 4.0])).item() == 5.0
    empty = runtime.clip_grad_norm_([], 1.0)
    assert (empty.item(), empty.dim(), empty.device.type) == (0.0, 0, "cpu")
    assert runtime.clip_grad_norm_([nn.Parameter(torch.zeros(2))], 1.0).item() == 0.0
    assert runtime.clip_grads_with_norm_([], 1.0, torch.tensor(1.0)) is None
    assert runtime.get_total_norm([torch.empty(0)], INF).item() == 0.0


def test_a_generator_is_read_once() -> None:
    params = params_of([torch.ones(4), torch.ones(5)])
    assert runtime.clip_grad_norm_((p for p in params), 1.0).item() == pytest.approx(3.0)
    assert runtime.grad_norm(p for p in params).item() == pytest.approx(1.0, rel=1e-5)


@pytest.mark.parametrize("empty", [(p for p in ()), filter(None, []), map(abs, []), itertools.chain()])
def test_an_empty_iterator_is_warned_about(empty: object) -> None:
    with pytest.warns(UserWarning, match="empty iterator") as caught:
        runtime.clip_grad_norm_(empty, 1.0)
    assert caught[0].filename == __file__


def test_a_repeated_parameter_counts_once() -> None:
    (param,) = params_of([torch.tensor([3.0, 4.0])])
    with pytest.warns(UserWarning, match="more than once"):
        norm = runtime.clip_grad_norm_([param, param], 1.0)
    assert norm.item() == 5.0
    torch.testing.assert_close(param.grad, torch.tensor([0.6, 0.8]), rtol=1e-5, atol=0)


def test_a_shared_gradient_is_scaled_once() -> None:
    grad = torch.tensor([3.0, 4.0])
    params = params_of([grad, grad])
    assert runtime.clip_grad_norm_(params, 1.0).item() == pytest.approx(math.sqrt(50))
    assert runtime.grad_norm(params).item() == pytest.approx(1.0, rel=1e-5)


def test_a_list_of_gradients_is_warned_about() -> None:
    with pytest.warns(UserWarning, match="not their gradients") as caught:
        assert runtime.clip_grad_norm_([torch.ones(3)], 1.0).item() == 0.0
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        runtime.clip_grad_norm_([nn.Parameter(torch.ones(3), requires_grad=False)], 1.0)  # frozen, no mistake
        runtime.clip_grad_norm_([torch.ones(3, requires_grad=True)], 1.0)


MODEL = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))


@pytest.mark.parametrize(
    ("wrong", "advice"),
    [
        (MODEL, "a module: pass `module.parameters()`"),
        (MODEL[0], "a module: pass `module.parameters()`"),
        ([MODEL], "a module: pass `module.parameters()`"),
        (MODEL.parameters, "a function: call it, as in `model.parameters()`"),
        (list(MODEL.named_parameters()), "`named_parameters()`: pass `parameters()`"),
        (torch.optim.SGD(MODEL.parameters(), 0.1).param_groups, "`param_groups`: pass "),
        (torch.optim.SGD(MODEL.parameters(), 0.1), "an optimizer: pass the parameters of its `param_groups`"),
        (MODEL.state_dict(), "names, as of a `state_dict()`: pass the tensors"),
        ([None], "None among the tensors: leave it out"),
        (3, "`int`"),
        ([3], "`int`"),
        ([("weight", 3)], "`tuple`"),
    ],
)
def test_a_wrong_argument_is_named(wrong: object, advice: str) -> None:
    message = f"`parameters` must be a tensor or an iterable of tensors, got {advice}"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}"):
        runtime.clip_grad_norm_(wrong, 1.0)


def test_get_total_norm_names_a_missing_gradient() -> None:
    with pytest.raises(TypeError, match="None"):
        runtime.get_total_norm([torch.ones(2), None])
    with pytest.raises(RuntimeError):
        runtime.get_total_norm([torch.ones(2, dtype=torch.int64)])


def test_a_parameter_list_works() -> None:
    params = nn.ParameterList(params_of([torch.ones(4)]))
    assert runtime.clip_grad_norm_(params, 9.0).item() == 2.0


@pytest.mark.parametrize(
    ("dtypes", "wanted"),
    [
        ((torch.float16,), torch.float32),
        ((torch.bfloat16, torch.float32), torch.float32),
        ((torch.complex64,), torch.float32),
        ((torch.float32, torch.float64), torch.float64),
        ((torch.complex128,), torch.float64),
    ],
)
def test_the_dtype_of_the_norm(dtypes: tuple[torch.dtype, ...], wanted: torch.dtype) -> None:
    grads = [random((5,), dtype) for dtype in dtypes]
    assert runtime.clip_grad_norm_(params_of(grads), 1.0).dtype == wanted
    assert runtime.get_total_norm(grads).dtype == wanted
    assert runtime.grad_norm(params_of(grads)).dtype == torch.float64


def test_mixed_dtypes_have_one_norm() -> None:
    check([random((100,), dtype) for dtype in DTYPES[:4]] * 2, 0.3)


def test_foreach_is_handled_as_in_torch() -> None:
    for foreach in (None, True, False):
        assert runtime.clip_grad_norm_(params_of([torch.ones(4)]), 9.0, foreach=foreach).item() == 2.0
    with pytest.raises(RuntimeError, match="foreach=True"):
        runtime.clip_grad_norm_(params_of([torch.ones(4, device="meta")]), 9.0, foreach=True)


def test_the_two_halves_are_the_clip() -> None:
    ours, theirs = [torch.randn(300, 40)], []
    theirs = [ours[0].clone()]
    for total_norm in (torch.tensor(7.0), 7.0):
        runtime.clip_grads_with_norm_(params_of(ours), 2.0, total_norm)
        if hasattr(torch.nn.utils, "clip_grads_with_norm_"):
            torch.nn.utils.clip_grads_with_norm_(params_of(theirs), 2.0, torch.tensor(7.0))
        else:  # before torch 2.6
            theirs[0] *= 2.0 / (7.0 + 1e-6)
        torch.testing.assert_close(ours, theirs)


def test_out_of_place() -> None:
    params = [*params_of([torch.tensor([3.0, 4.0])]), nn.Parameter(torch.zeros(2))]
    clipped = runtime.clipped_grads(params, 1.0)
    assert params[0].grad.tolist() == [3.0, 4.0]
    assert clipped.norm.item() == 5.0
    assert clipped.clipped_norm.item() == pytest.approx(1.0, rel=1e-5)
    torch.testing.assert_close(clipped.grads[0], torch.tensor([0.6, 0.8]), rtol=1e-5, atol=0)
    assert clipped.grads[1] is None
    copy = runtime.clipped_grads(params, 10.0).grads[0]
    assert copy is not None
    copy.zero_()
    assert params[0].grad.tolist() == [3.0, 4.0]


@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, INF])
def test_compiles_into_one_graph(norm_type: float) -> None:
    torch.compiler.reset()
    ours = [torch.randn(5, 6), torch.randn(7)]
    want = [reference.total_norm(ours, norm_type), *reference.clipped(ours, 0.5, norm_type)]
    compiled = torch.compile(runtime.clip_grad_norm_, fullgraph=True, backend="aot_eager")
    norm = compiled(params_of(ours), 0.5, norm_type)
    assert norm.item() == pytest.approx(want[0], rel=2e-7)
    torch.testing.assert_close([grad.double() for grad in ours], want[1:], rtol=5e-7, atol=0)
    total = torch.compile(runtime.get_total_norm, fullgraph=True, backend="aot_eager")
    assert total(ours, norm_type).item() == pytest.approx(0.5, rel=1e-4)


def test_under_modes_and_contexts() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    grads = [torch.randn(30, 40), torch.randn(3, dtype=torch.bfloat16)]
    want = reference.total_norm(grads)
    contexts = [
        torch.inference_mode(),
        torch.enable_grad(),
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.device("meta"),
    ]
    for context in contexts:
        with context:
            got = runtime.get_total_norm(grads)
        assert got.device.type == "cpu"
        assert not got.requires_grad
        assert got.item() == pytest.approx(want, rel=2e-7)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert runtime.get_total_norm(grads).dtype == torch.float32
    finally:
        torch.set_default_dtype(default)
    with FakeTensorMode():
        fake = params_of([torch.empty(5, 6)])
        assert runtime.clip_grad_norm_(fake, 1.0).shape == ()
    assert runtime.clip_grad_norm_(params_of([torch.empty(5, device="meta")]), 1.0).device.type == "meta"
    assert torch.func.vmap(lambda g: runtime.get_total_norm([g]))(torch.ones(3, 4)).tolist() == [2.0] * 3


def test_plans_made_in_inference_mode_work_outside_of_it() -> None:
    big = [torch.randn(20_000, dtype=torch.bfloat16)]
    found = []

    def work() -> None:
        with torch.inference_mode():
            runtime.get_total_norm(big)
        found.append(runtime.clip_grad_norm_(params_of(big), 1e9).item())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [pytest.approx(reference.total_norm(big), rel=2e-7)]


def test_a_tensor_subclass_keeps_its_type() -> None:
    class Tagged(torch.Tensor):
        pass

    grad = torch.tensor([3.0, 4.0]).as_subclass(Tagged)
    assert runtime.clip_grad_norm_(params_of([grad]), 1.0).item() == 5.0
    assert type(grad) is Tagged
    torch.testing.assert_close(grad.as_subclass(torch.Tensor), torch.tensor([0.6, 0.8]), rtol=1e-5, atol=0)


def test_gradients_that_require_grad_are_clipped() -> None:
    param = torch.ones(3, requires_grad=True)
    (param**3).sum().backward(create_graph=True)
    assert param.grad.requires_grad
    assert runtime.clip_grad_norm_([param], 1.0).item() == pytest.approx(math.sqrt(27))


def test_several_threads_at_once() -> None:
    grads = [[torch.randn(50_000, dtype=torch.bfloat16) * scale] for scale in (1, 10, 100, 1000)]
    want = [pytest.approx(reference.total_norm(g), rel=2e-7) for g in grads]
    got = [0.0] * 4

    def work(index: int) -> None:
        for _ in range(50):
            got[index] = runtime.get_total_norm(grads[index]).item()

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == want


def test_no_gradient_is_kept_alive() -> None:
    params = params_of([torch.randn(100_000), torch.randn(5)])
    runtime.clip_grad_norm_(params, 1e-3)
    references = [weakref.ref(p.grad) for p in params]
    for p in params:
        p.grad = None
    gc.collect()
    assert [reference() for reference in references] == [None, None]


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize("only", [slice(0, 3), slice(1, 2)], ids=["all", "strided"])
def test_little_extra_memory(only: slice, busy: bool) -> None:
    """300 MB of gradients, in one tensor and in a strided one, need less than 30 MB more, and the strided one alone."""
    script = f"""
import resource, torch
from clipcheck import runtime
from clipcheck.runtime import cpu
cpu.is_serial_better = lambda: {busy}
def grads(n):
    base = torch.ones(2, 2 * n, dtype=torch.bfloat16)
    return [base[0], base.t()[::2], torch.ones(n)][{only}]
runtime.get_total_norm(grads(1_000_000))  # the code itself takes memory when it runs first
large = grads(25_000_000)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
runtime.get_total_norm(large)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    if sys.platform != "linux":
        pytest.skip("reads the resident set as Linux counts it")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 30


def test_the_import_loads_torch_and_nothing_else() -> None:
    script = """
import sys, torch
before = set(sys.modules)
import clipcheck.runtime
new = {name.split(".")[0] for name in set(sys.modules) - before} - {"clipcheck", "torch"}
print(sorted(new - set(sys.stdlib_module_names)))
print(sorted(name for name in sys.modules if name.startswith("clipcheck.") and ".runtime" not in name))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["[]", "[]"]


# --- torch and ours on the same random gradients --------------------------------------------------------------------

shapes = st.lists(st.integers(0, 40), max_size=3).map(tuple)
values = st.floats(-1e4, 1e4, width=32, allow_subnormal=False)


@st.composite
def made_up(draw: st.DrawFn, device: str) -> list[torch.Tensor]:
    """Gradients of mixed shapes, dtypes and strides, that torch itself can measure."""
    grads = []
    seed = draw(st.integers(0, 2**32))
    generator = torch.Generator().manual_seed(seed)
    for _ in range(draw(st.integers(1, 6))):
        dtype = draw(st.sampled_from((torch.bfloat16, torch.float32, torch.float64, torch.complex64)))
        scale = abs(draw(values)) or 1.0
        kind = torch.complex64 if dtype.is_complex else torch.float32
        grad = (torch.randn(draw(shapes), dtype=kind, generator=generator) * scale).to(device, dtype)
        match draw(st.sampled_from(("as it is", "transposed", "strided", "zero"))):
            case "transposed" if grad.dim() >= 2:
                grad = grad.transpose(0, 1)
            case "strided" if grad.dim() >= 1:
                grad = grad[..., ::2]
            case "zero":
                grad.zero_()
        grads.append(grad)
    return grads


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
    ],
)
@settings(max_examples=300, deadline=None)
@given(
    data=st.data(),
    norm_type=st.sampled_from((0.0, 0.5, 1.0, 2.0, 3.0, INF)),
    max_norm=st.sampled_from((0.0, 1e-3, 1.0, 10.0, 1e6, INF)),
    foreach=st.sampled_from((None, True, False)),
)
def test_results_agree_with_torch(
    device: str, data: st.DataObject, norm_type: float, max_norm: float, foreach: bool | None
) -> None:
    """Every difference from torch is listed here: the inf norm of an empty gradient, and digits that torch loses."""
    grads = data.draw(made_up(device))
    if norm_type == INF:
        grads = [grad for grad in grads if grad.numel()]  # torch raises
    ours = [grad.clone(memory_format=torch.preserve_format) for grad in grads]
    theirs = [grad.clone(memory_format=torch.preserve_format) for grad in grads]
    norm = runtime.clip_grad_norm_(params_of(ours), max_norm, norm_type, foreach=foreach)
    expected = torch_clip(params_of(theirs), max_norm, norm_type, foreach=foreach)
    low = any(grad.dtype == torch.bfloat16 for grad in grads)
    loose = 3e-2 if low else 2e-5
    assert norm.device == expected.device
    assert norm.shape == expected.shape
    assert norm.item() == pytest.approx(expected.item(), rel=loose)
    if 0.9 < max_norm / (expected.item() + 1e-6) < 1.1:
        return  # either side of the limit
    for one, other in zip(ours, theirs, strict=True):
        assert one.stride() == other.stride()
        torch.testing.assert_close(one, other, rtol=loose, atol=1e-30)


@pytest.mark.parametrize("scale", [1e30, 1e-30])
@pytest.mark.parametrize("norm_type", [9.0, 30.0, -30.0])
def test_the_plain_norm_keeps_high_powers_in_range(scale: float, norm_type: float) -> None:
    grads = [torch.randn(30, 40) * scale, torch.randn(77, dtype=torch.complex64) * scale]
    assert plain.norm(grads, norm_type).item() == pytest.approx(reference.total_norm(grads, norm_type), rel=1e-6)
    grads[0][3] = math.nan
    assert plain.norm(grads, norm_type).isnan()
    assert plain.norm([torch.zeros(3)], norm_type).item() == 0.0


def test_each_fast_path_agrees_with_a_plain_one() -> None:
    """The careful, the plain and the fast norm agree on every norm type."""
    grads = [torch.randn(300, 400), torch.randn(77)]
    for norm_type in (1.0, 2.0, 3.0, INF):
        want = reference.total_norm(grads, norm_type)
        assert cpu.norm([grads], norm_type) == pytest.approx(want, rel=1e-8)
        assert cpu.careful_norm(grads, norm_type) == pytest.approx(want, rel=1e-13)
        assert plain.norm(grads, norm_type).item() == pytest.approx(want, rel=1e-13)


def test_a_trace_contains_the_norm_of_each_call() -> None:
    def clipped(grad: torch.Tensor, other: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        params = [torch.nn.Parameter(torch.zeros(3)), torch.nn.Parameter(torch.zeros(2))]
        params[0].grad, params[1].grad = grad * 1, other * 1
        return runtime.clip_grad_norm_(params, 1.0), params[0].grad

    traced = torch.jit.trace(clipped, (torch.randn(3), torch.randn(2)), check_trace=False)
    for scale in (0.01, 5.0):
        grads = torch.randn(3) * scale, torch.randn(2) * scale
        norm, grad = traced(*grads)
        want = reference.total_norm(list(grads))
        assert norm.item() == pytest.approx(want, rel=2e-7)
        torch.testing.assert_close(grad, grads[0] * min(1.0, 1 / want))


# --- where warnings point, and what stays as it was -------------------------------------------------------------------

CALLS = {
    "clip_grad_norm_": lambda given: runtime.clip_grad_norm_(given, 1.0),
    "grad_norm": lambda given: runtime.grad_norm(given),
    "clipped_grads": lambda given: runtime.clipped_grads(given, 1.0),
    "clip_grads_with_norm_": lambda given: runtime.clip_grads_with_norm_(given, 1.0, 2.0),
    "get_total_norm": lambda given: runtime.get_total_norm(given),
    "as_torch.clip_grad_norm_": lambda given: as_torch.clip_grad_norm_(given, 1.0),
    "as_torch.get_total_norm": lambda given: as_torch.get_total_norm(given),
}
OF_GRADIENTS = ("get_total_norm", "as_torch.get_total_norm")


def warned(call: Callable[[Any], Any], given: object) -> list[str]:
    """The warnings of a call, all about this file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(given)
    assert {one.filename for one in caught} <= {__file__}
    return [str(one.message) for one in caught]


@pytest.mark.parametrize("name", CALLS)
def test_an_empty_iterator_is_warned_about_once_where_it_is_passed(name: str) -> None:
    what = "tensors" if name in OF_GRADIENTS else "parameters"
    message = f"`{what}` is an empty iterator, nothing will be clipped or measured"
    assert warned(CALLS[name], iter(())) == [message]
    assert warned(CALLS[name], []) == warned(CALLS[name], params_of([torch.ones(2)])) == []


@pytest.mark.parametrize("name", ["clip_grad_norm_", "grad_norm", "clipped_grads", "clip_grads_with_norm_"])
def test_other_mistakes_are_warned_about_where_they_are_made(name: str) -> None:
    (param,) = params_of([torch.ones(2)])
    repeated = "`parameters` lists a parameter more than once, it is counted once"
    assert warned(CALLS[name], [param, param]) == [repeated]
    held = "no tensor in `parameters` can hold a gradient: pass the parameters, not their gradients"
    assert warned(CALLS[name], [torch.ones(3)]) == [held]


@pytest.mark.parametrize("enabled", [True, False])
@pytest.mark.parametrize("fails", [False, True])
def test_whether_gradients_are_tracked_stays_as_it_was(enabled: bool, fails: bool) -> None:
    params = params_of([torch.ones(3), torch.ones(1).expand(2) if fails else torch.ones(2)])
    with torch.set_grad_enabled(enabled):
        if fails:
            with pytest.raises(RuntimeError):
                runtime.clip_grad_norm_(params, 0.1)
        else:
            runtime.clip_grad_norm_(params, 0.1)
        assert torch.is_grad_enabled() is enabled


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64, torch.bfloat16])
def test_a_clip_is_no_part_of_a_graph(dtype: torch.dtype) -> None:
    """A leaf that requires grad cannot be written to, and a product would remember what it was made of."""
    for grads in ([torch.ones(3, dtype=dtype, requires_grad=True)], [torch.ones(30_000, dtype=dtype).requires_grad_()]):
        params = params_of(grads)
        norm = runtime.clip_grad_norm_(params, 0.1)
        assert not norm.requires_grad and grads[0].grad_fn is None
        assert not runtime.grad_norm(params).requires_grad
        assert not runtime.get_total_norm(grads).requires_grad
        copies = runtime.clipped_grads(params, 0.05)
        assert copies.grads[0] is not None and not copies.grads[0].requires_grad
        runtime.clip_grads_with_norm_(params, 0.01, norm)
        assert grads[0].grad_fn is None


@pytest.mark.parametrize("order", [-1.0, -INF, 0.5, 1.0, 2.0, 3.0, 9.0, INF])
def test_gradients_without_elements_do_not_count(order: float) -> None:
    empty, values = torch.zeros(0, 3), [torch.tensor([3.0, -2.0]), torch.tensor([[1.5]], dtype=torch.float64)]
    want = reference.total_norm(values, order)
    for grads in ([empty, *values], [*values, empty, empty.bfloat16()], [values[0], empty, values[1]]):
        assert runtime.get_total_norm(grads, order).item() == pytest.approx(want, rel=1e-12)
        clipped = runtime.clipped_grads(params_of(grads), want / 2, order)
        assert clipped.clipped_norm.item() == pytest.approx(want / 2, rel=1e-5)
    assert runtime.get_total_norm([empty, empty.double()], order).item() == 0.0


def test_copies_belong_to_the_parameters_that_are_listed() -> None:
    """Also to one that is listed twice, or has no gradient."""
    first, second = params_of([torch.tensor([3.0]), torch.tensor([4.0])])
    bare = nn.Parameter(torch.zeros(1))
    with pytest.warns(UserWarning, match="more than once"):
        found = runtime.clipped_grads([first, bare, second, first], 2.5)
    assert found.norm.item() == 5.0
    assert [None if copy is None else round(copy.item(), 5) for copy in found.grads] == [1.5, None, 2.0, 1.5]
    assert found.norm.dtype == found.clipped_norm.dtype == torch.float32
    nothing = runtime.clipped_grads([bare], 2.5)
    assert (nothing.grads, nothing.norm.item(), nothing.clipped_norm.item()) == ([None], 0.0, 0.0)


@pytest.mark.parametrize("counted", [True, False])
def test_a_parameter_that_does_not_count_is_scaled_as_well(counted: bool) -> None:
    params = params_of([torch.tensor([3.0]), torch.tensor([4.0])])
    norm = runtime.clip_grad_norm_(params, 1.0, counts=lambda p: counted and p is params[1])
    assert norm.item() == (4.0 if counted else 0.0)
    assert [p.grad.item() for p in params] == pytest.approx([0.75, 1.0] if counted else [3.0, 4.0], rel=1e-5)
    grads = [p.grad for p in params]
    total = runtime.get_total_norm(grads, counts=lambda grad: counted and grad is grads[1])
    assert total.item() == pytest.approx(1.0 if counted else 0.0, rel=1e-5)
    params[0].grad.fill_(math.inf)
    with pytest.raises(RuntimeError, match="non-finite"):
        runtime.clip_grad_norm_(params, 1.0, counts=lambda p: True, nonfinite="raise")


@pytest.mark.parametrize("module", [runtime, as_torch], ids=["runtime", "as_torch"])
@pytest.mark.parametrize("name", ["clip_grad_norm_", "get_total_norm", "clip_grads_with_norm_"])
def test_arguments_and_defaults_are_those_of_torch(module: Any, name: str) -> None:
    if not hasattr(torch.nn.utils, name) or not hasattr(module, name):
        pytest.skip("there is no such function")
    theirs, ours = (inspect.signature(getattr(place, name)).parameters for place in (torch.nn.utils, module))
    assert list(ours)[: len(theirs)] == list(theirs)
    assert [ours[each].default for each in theirs] == [theirs[each].default for each in theirs]


def test_the_order_is_2_unless_another_is_given() -> None:
    params = params_of([torch.tensor([3.0, 4.0])])
    assert runtime.grad_norm(params).item() == runtime.clipped_grads(params, 9.0).norm.item() == 5.0
    assert runtime.clipped_grads(params, 2.5).clipped_norm.item() == pytest.approx(2.5, rel=1e-5)
    assert reference.total_norm([p.grad for p in params]) == 5.0
    assert reference.clipped([p.grad for p in params], 1.0)[0].norm().item() == pytest.approx(1.0, rel=1e-5)
