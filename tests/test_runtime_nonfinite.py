"""Norms of NaN and infinity: spread as in torch, raised with the names of the culprits, or skipped on the device."""

from __future__ import annotations

import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from clipcheck import runtime  # noqa: E402
from clipcheck.runtime import local  # noqa: E402

BAD = [math.nan, math.inf, -math.inf]
NORM_TYPES = [1.0, 2.0, 3.0, math.inf]
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")),
]
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]


def params_of(grads: list[torch.Tensor]) -> list[nn.Parameter]:
    params = []
    for grad in grads:
        param = nn.Parameter(torch.empty(grad.shape, dtype=grad.dtype, device=grad.device))
        param.grad = grad
        params.append(param)
    return params


def made_up(dtype: torch.dtype, device: str) -> list[torch.Tensor]:
    """A large gradient, a strided one, an empty one, and a scalar."""
    generator = torch.Generator().manual_seed(3)
    wide = torch.complex64 if dtype.is_complex else torch.float32
    shapes = [(300, 301), (40, 50), (0,), ()]
    grads = [torch.randn(shape, generator=generator, dtype=wide).to(device, dtype) for shape in shapes]
    grads[1] = grads[1].t()
    return grads


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm_type", NORM_TYPES)
@pytest.mark.parametrize("bad", BAD)
def test_a_skipped_norm_zeroes_every_gradient(device: str, dtype: torch.dtype, norm_type: float, bad: float) -> None:
    for index in (0, 1, 3):
        for max_norm in (1.0, 1e9, 0.0, -1.0, math.inf):
            grads = made_up(dtype, device)
            grads[index][(0,) * grads[index].dim()] = bad
            norm = runtime.clip_grad_norm_(params_of(grads), max_norm, norm_type, nonfinite="skip")
            assert [grad.count_nonzero().item() for grad in grads] == [0, 0, 0, 0]
            assert norm.isnan().item() == math.isnan(bad)
            assert not norm.isfinite()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("norm_type", NORM_TYPES)
@pytest.mark.parametrize("max_norm", [0.5, 1e9])
def test_a_finite_norm_is_still_clipped(device: str, dtype: torch.dtype, norm_type: float, max_norm: float) -> None:
    ours, other = made_up(dtype, device), made_up(dtype, device)
    norm = runtime.clip_grad_norm_(params_of(ours), max_norm, norm_type, nonfinite="skip")
    assert torch.equal(norm, runtime.clip_grad_norm_(params_of(other), max_norm, norm_type))
    assert all(map(torch.equal, ours, other))


@pytest.mark.parametrize("norm_type", NORM_TYPES)
@pytest.mark.parametrize("bad", BAD)
def test_where_no_value_may_reach_the_host(bad: float, norm_type: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The path for torch.compile, other devices and tensor subclasses, with values that can be inspected."""
    monkeypatch.setattr(local, "is_observed", lambda: True)
    grads = [torch.randn(3, 4), torch.randn(5)]
    grads[0][1, 2] = bad
    norm = runtime.clip_grad_norm_(params_of(grads), 0.5, norm_type, nonfinite="skip")
    assert not norm.isfinite()
    assert [grad.count_nonzero().item() for grad in grads] == [0, 0]
    grads = [torch.randn(3, 4), torch.randn(5)]
    runtime.clip_grad_norm_(params_of(grads), 0.5, norm_type, nonfinite="skip")
    assert runtime.get_total_norm(grads, norm_type).item() == pytest.approx(0.5, rel=1e-5)


def test_skipping_reads_nothing_on_the_host() -> None:
    """A fake tensor has no value: reading one raises."""
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

    with FakeTensorMode():
        params = params_of([torch.empty(5, 6)])
        assert runtime.clip_grad_norm_(params, 1.0, nonfinite="skip").shape == ()
        with pytest.raises(DataDependentOutputException):
            runtime.clip_grad_norm_(params, 1.0, nonfinite="raise")


def test_skipping_compiles_into_one_graph() -> None:
    torch.compiler.reset()
    compiled = torch.compile(runtime.clip_grad_norm_, fullgraph=True, backend="aot_eager")
    grads = [torch.tensor([3.0, 4.0])]
    assert compiled(params_of(grads), 1.0, nonfinite="skip").item() == 5.0
    torch.testing.assert_close(grads[0], torch.tensor([0.6, 0.8]))
    grads[0][0] = math.nan
    assert compiled(params_of(grads), 1.0, nonfinite="skip").isnan()
    assert grads[0].tolist() == [0.0, 0.0]


def test_skipping_sparse_and_conjugated_and_shared_gradients() -> None:
    sparse = torch.sparse_coo_tensor(torch.tensor([[1, 1, 4]]), torch.tensor([1.0, math.inf, 4.0]), (6,))
    conjugated = torch.randn(20, 10, dtype=torch.complex64).conj()
    shared = torch.randn(7)
    runtime.clip_grad_norm_(params_of([sparse, conjugated, shared, shared]), 1.0, nonfinite="skip")
    for grad in (sparse.to_dense(), conjugated, shared):
        assert not grad.any()


@pytest.mark.parametrize("optimizer_class", [torch.optim.AdamW, torch.optim.SGD])
def test_a_fused_optimizer_takes_the_flag(optimizer_class: type[torch.optim.Optimizer]) -> None:
    """The step of a norm that is not finite leaves parameters and state unchanged, including momentum and decay."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6):
        pytest.skip("fused optimizers on the CPU are young")
    momentum = {"momentum": 0.9} if optimizer_class is torch.optim.SGD else {}
    param = nn.Parameter(torch.ones(3))
    optimizer = optimizer_class([param], lr=0.1, weight_decay=0.1, fused=True, **momentum)
    history = []
    for bad in (1.0, math.nan, 1.0):
        param.grad = torch.tensor([1.0, 2.0, bad])
        norm = runtime.clip_grad_norm_([param], 1.0, nonfinite="skip")
        optimizer.found_inf = (~norm.isfinite()).float()
        optimizer.step()
        history.append(param.tolist())
    assert history[0] == history[1] != history[2]


# --- raising --------------------------------------------------------------------------------------------------------


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.last = nn.Linear(3, 1)
        for param in self.parameters():
            param.grad = torch.ones_like(param)


def test_an_error_names_the_culprits() -> None:
    model = Model()
    model.first.bias.grad[1] = math.nan
    model.last.weight.grad[0, 2] = -math.inf
    before = [p.grad.clone() for p in model.parameters()]
    with pytest.raises(RuntimeError) as raised:
        runtime.clip_grad_norm_(model.parameters(), 1.0, nonfinite="raise", names=model.named_parameters())
    assert "non-finite" in str(raised.value)
    assert "2 of 4 gradients are not finite: first.bias (NaN), last.weight (infinite)." in str(raised.value)
    torch.testing.assert_close([p.grad for p in model.parameters()], before, equal_nan=True)


def test_names_belong_to_parameters_whatever_their_order() -> None:
    model = Model()
    model.first.bias.grad[1] = math.nan
    params = [model.last.bias, model.last.weight, model.first.bias]
    with pytest.raises(RuntimeError, match=r"1 of 3 gradients are not finite: first\.bias \(NaN\)\."):
        runtime.clip_grad_norm_(params, 1.0, nonfinite="raise", names=model.named_parameters())


def test_without_names_the_error_counts() -> None:
    grads = [torch.ones(2), *(torch.full((3, n), math.nan) for n in range(1, 6))]
    for arguments in ({"nonfinite": "raise"}, {"error_if_nonfinite": True}):
        with pytest.raises(RuntimeError) as raised:
            runtime.clip_grad_norm_(params_of(grads), 1.0, **arguments)
        assert "5 of 6 gradients" in str(raised.value)
        assert "number 1, counted from 0, of shape (3, 1) (NaN), number 2," in str(raised.value)
        assert "and 2 more" in str(raised.value)


def test_an_error_says_when_the_norm_alone_is_infinite() -> None:
    grads = [torch.full((2,), 1e308, dtype=torch.float64)]
    with pytest.raises(RuntimeError, match="all gradients of this process are finite"):
        runtime.clip_grad_norm_(params_of(grads), 1.0, 1.0, nonfinite="raise")


@pytest.mark.parametrize("names", [["weight", "bias"], {"weight": 1}, 3])
def test_wrong_names_do_not_hide_the_error(names: Any) -> None:
    params = params_of([torch.tensor([math.inf, 1.0])])
    wanted = r"1 of 1 .* number 0, .* \(infinite\) \(`names` must be `model.named_parameters\(\)`\)"
    with pytest.raises(RuntimeError, match=wanted):
        runtime.clip_grad_norm_(params, 1.0, nonfinite="raise", names=names)


def test_names_are_read_only_for_the_error() -> None:
    model = Model()
    names = model.named_parameters()
    runtime.clip_grad_norm_(model.parameters(), 1.0, nonfinite="raise", names=names)
    assert len(list(names)) == 4


def test_contradictory_arguments_are_rejected() -> None:
    params = params_of([torch.ones(2)])
    with pytest.raises(ValueError, match="contradicts"):
        runtime.clip_grad_norm_(params, 1.0, error_if_nonfinite=True, nonfinite="skip")
    for call in (runtime.clip_grad_norm_, runtime.clip_grads_with_norm_):
        with pytest.raises(ValueError, match="spread"):
            call(params, 1.0, 2.0, nonfinite="ignore")


# --- the second half ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("bad", BAD[:2])
@pytest.mark.parametrize("as_number", [False, True])
def test_clipping_with_a_norm_that_is_not_finite(device: str, bad: float, as_number: bool) -> None:
    norm = bad if as_number else torch.tensor(bad, device=device)
    for nonfinite, wanted in (("spread", 0.0 * (1 / bad)), ("skip", 0.0)):
        params = params_of([torch.ones(3, device=device)])
        runtime.clip_grads_with_norm_(params, 1.0, norm, nonfinite=nonfinite)
        assert str(params[0].grad.tolist()) == str([wanted] * 3)
    params = params_of([torch.ones(3, device=device)])
    with pytest.raises(RuntimeError, match="`total_norm` is non-finite"):
        runtime.clip_grads_with_norm_(params, 1.0, norm, nonfinite="raise")
    assert params[0].grad.tolist() == [1.0] * 3


# --- on a GPU -------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("norm_type", [2.0, 3.0])
def test_skipping_does_not_synchronize_with_the_gpu(norm_type: float) -> None:
    grads = [torch.randn(100, 50, device="cuda"), torch.randn(3, device="cuda")]
    params = params_of(grads)
    runtime.clip_grad_norm_(params, 0.5, norm_type, nonfinite="skip")  # compiles
    grads[1][0] = math.nan
    skipped = torch.zeros((), device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            norm = runtime.clip_grad_norm_(params, 0.5, norm_type, nonfinite="skip")
            skipped += ~norm.isfinite()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert skipped.item() == 1  # the second time the gradients are zero
    assert not grads[0].any()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_skipping_in_a_graph() -> None:
    grads = [torch.randn(100, 50, device="cuda"), torch.randn(3, device="cuda")]
    params = params_of(grads)
    runtime.clip_grad_norm_(params, 0.5, nonfinite="skip")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        norm = runtime.clip_grad_norm_(params, 0.5, nonfinite="skip")
    grads[0].fill_(1.0)
    grads[1].fill_(math.inf)
    graph.replay()
    assert norm.item() == math.inf
    assert not any(grad.any() for grad in grads)
    grads[0].fill_(1.0)
    graph.replay()
    assert norm.item() == pytest.approx(math.sqrt(5000))
    assert runtime.get_total_norm(grads).item() == pytest.approx(0.5, rel=1e-5)
