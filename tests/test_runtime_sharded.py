"""The sharded clip in real processes over gloo or NCCL, compared with the float64 norm of the whole gradients."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
from processes import (  # noqa: E402
    INF,
    MAX_NORM,
    SETUPS,
    Case,
    DTensor,
    Partial,
    Replicate,
    Setup,
    Shard,
    check,
    counted,
    device,
    distribute_tensor,
    distributed,
    every_rank_agrees,
    of_this_rank,
    replicated,
    whole,
)
from torch.distributed import fsdp  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402

from clipcheck import runtime  # noqa: E402
from clipcheck.runtime import reference  # noqa: E402

VERSION = tuple(map(int, torch.__version__.split(".")[:2]))
EMPTY: tuple[tuple[int, int], ...] = (
    ((0, 3),) if VERSION >= (2, 5) else ()
)  # before, there may be nothing to be sharded


def fsdp2_uneven(rank: int, size: int) -> None:
    mesh = init_device_mesh(device(), (size,))
    grads = whole((7, 13), (1, 5), (4,), *EMPTY)  # 7 over 4 ranks: 2, 2, 2, 1; 1 over 4: three empty shards
    for norm_type in (1.0, 2.0, 3.0, 0.5, INF):
        check([distributed(g, mesh, [Shard(0)]) for g in grads], grads, 1, norm_type)


def orders_below_zero(rank: int, size: int) -> None:
    """The smallest element counts most; a rank without elements has no say, and NaN stays NaN."""
    mesh = init_device_mesh(device(), (size,))
    for norm_type in (-1.0, -3.0, -INF):
        grads = whole((7, 13), (1, 5), (4,))
        params = [distributed(g, mesh, [Shard(0)]) for g in grads[:2]] + [replicated(grads[2])]
        want = reference.total_norm(grads, norm_type)
        assert runtime.grad_norm(params, norm_type).item() == pytest.approx(want, rel=1e-6)
        stages = [whole((4, stage + 1))[0] + stage for stage in range(size)]
        got = runtime.grad_norm([replicated(stages[rank])], norm_type, group=dist.group.WORLD)
        assert got.item() == pytest.approx(reference.total_norm(stages, norm_type), rel=1e-6)
        params[0].grad.to_local().fill_(float("nan") if rank == size - 1 else 1.0)
        assert runtime.grad_norm(params, norm_type).isnan()
        stage = torch.full((3,), float("nan") if rank == 0 else 1.0, device=device())
        assert runtime.grad_norm([replicated(stage)], norm_type, group=dist.group.WORLD).isnan()


def no_power_overflows_or_vanishes(rank: int, size: int) -> None:
    mesh = init_device_mesh(device(), (size,))
    for scale in (1e30, 1e-30):
        for norm_type in (1.0, 2.0, 3.0, 11.0, 20.0, -11.0, INF):
            grads = [grad * scale for grad in whole((7, 13), (5,))]
            params = [distributed(grads[0], mesh, [Shard(0)]), replicated(grads[1])]
            want = reference.total_norm(grads, norm_type)
            assert runtime.grad_norm(params, norm_type).item() == pytest.approx(want, rel=1e-7)


def the_zero_norm_counts_gradients(rank: int, size: int) -> None:
    mesh = init_device_mesh(device(), (size,))
    grads = [torch.zeros(4, 3), torch.zeros(5), torch.ones(6), torch.zeros(9), torch.zeros(3)]
    grads[0][0, 0] = grads[0][3, 1] = grads[3][-1] = 2.0  # on two ranks, on the last one
    grads = [grad.to(device()) for grad in grads]
    params = [distributed(g, mesh, [Shard(0)]) for g in grads[:4]] + [replicated(grads[4] + 1)]
    assert runtime.get_total_norm([p.grad for p in params[:4]], 0).item() == 3
    if VERSION >= (2, 13):  # 2.7 adds something else up
        assert torch.nn.utils.get_total_norm([p.grad for p in params[:4]], 0).full_tensor().item() == 3
    with counted() as sizes:
        assert runtime.grad_norm(params, 0).item() == 4
    assert len(sizes) == 1
    want = [p.grad.full_tensor() / 8 for p in params[:4]]
    assert runtime.clip_grad_norm_(params, 0.5, 0).item() == 4
    for p, grad in zip(params, want, strict=False):
        torch.testing.assert_close(p.grad.full_tensor(), grad)
    if rank == 0:
        params[0].grad = None
    assert runtime.grad_norm(params, 0, group=dist.group.WORLD).item() == 4 * size


def hsdp_and_tensor_parallel(rank: int, size: int) -> None:
    mesh = init_device_mesh(device(), (2, size // 2), mesh_dim_names=("dp", "tp"))
    inner = int(size > 2)  # on two ranks the second dimension has one rank, and nothing to exchange
    grads = whole((8, 6), (5, 3), (9,))
    check([distributed(g, mesh, [Replicate(), Shard(0)]) for g in grads], grads, inner)
    check([distributed(g, mesh, [Shard(0), Shard(0)]) for g in grads], grads, 1 + inner)
    grads = whole((8, 6), (6, 8), (5, 3), (9,), (4,))
    params = [
        distributed(grads[0], mesh, [Shard(0), Shard(1)]),
        distributed(grads[1], mesh["dp"], [Shard(0)]),
        distributed(grads[2], mesh["tp"], [Shard(0)]),
        distributed(grads[3], mesh, [Replicate(), Replicate()]),
        replicated(grads[4]),
    ]
    check(
        params, grads, 1 + inner
    )  # two meshes, one of two dimensions, and a plain parameter: still one per process group


def partial_gradients(rank: int, size: int) -> None:
    mesh = init_device_mesh(device(), (size,))
    grads = whole((6, 4), (5,))
    param = torch.nn.Parameter(distribute_tensor(torch.zeros_like(grads[0]), mesh, [Replicate()]))
    weights = torch.arange(1.0, size + 1)
    share = grads[0] * ((weights[rank] / weights.sum()).item())
    param.grad = DTensor.from_local(share, mesh, [Partial()])
    check([param, distributed(grads[1], mesh, [Shard(0)])], grads, 1)


def missing_gradients(rank: int, size: int) -> None:
    mesh = init_device_mesh(device(), (size,))
    grads = whole((8, 4), (8, 2))
    params = [distributed(g, mesh, [Shard(0)]) for g in grads]
    # Rank 0 lost its part of the first gradient; the norm is that of what is there, and nobody hangs.
    if rank == 0:
        params[0].grad = None
    parts = grads[0].chunk(size)
    want = reference.total_norm([*parts[1:], grads[1]])
    assert runtime.clip_grad_norm_(params, 1e9).item() == pytest.approx(want, rel=2e-7)
    for p in params:
        p.grad = None
    assert runtime.clip_grad_norm_(params, 1.0).item() == 0


def pipeline(rank: int, size: int) -> None:
    stages = [whole((10, rank_ + 1), (3,)) for rank_ in range(size)]
    everything = [grad for stage in stages for grad in stage]
    for norm_type in (2.0, float("inf")):
        want = reference.total_norm(everything, norm_type)
        params = [replicated(g) for g in stages[rank]]
        got = runtime.clip_grad_norm_(params, MAX_NORM, norm_type, group=dist.group.WORLD)
        assert got.item() == pytest.approx(want, rel=2e-7)
        torch.testing.assert_close(params[0].grad, stages[rank][0] * (MAX_NORM / (want + 1e-6)))
    # A stage without parameters still takes part.
    params = [] if rank == 0 else [replicated(g) for g in stages[rank]]
    rest = [grad for stage in stages[1:] for grad in stage]
    got = runtime.clip_grad_norm_(params, 1e9, group=[dist.group.WORLD])
    assert got.item() == pytest.approx(reference.total_norm(rest), rel=2e-7)


def experts(rank: int, size: int) -> None:
    shared, expert = whole((6, 6), (size * 3, 4))
    parts = expert.chunk(size)
    params = [replicated(shared), replicated(parts[rank])]
    check(params, [shared, expert], 1, shard_group=lambda p: dist.group.WORLD if p is params[1] else None)
    params = [replicated(shared), replicated(parts[rank])]
    if rank == 1:  # an expert that got no token
        params[1].grad = None
    want = reference.total_norm([shared, *(part for index, part in enumerate(parts) if index != 1)])
    got = runtime.clip_grad_norm_(params, 1e9, shard_group=lambda p: dist.group.WORLD if p is params[1] else None)
    assert got.item() == pytest.approx(want, rel=2e-7)


def equal_groups_are_one(rank: int, size: int) -> None:
    grads = whole((6, 4), (5,), (3, 3))
    params = [replicated(grad.tensor_split(size)[rank].contiguous()) for grad in grads[:2]] + [replicated(grads[2])]
    twin = dist.new_group(list(range(size)), backend=dist.get_backend())
    alone = [dist.new_group([other], backend=dist.get_backend()) for other in range(size)][rank]
    own = dict(zip(map(id, params), (dist.group.WORLD, twin, alone), strict=True))
    check(params, grads, 1, shard_group=lambda p: own[id(p)])


def nonfinite(rank: int, size: int) -> None:
    mesh = init_device_mesh(device(), (size,))
    for bad in (float("nan"), float("inf")):
        for norm_type in (2.0, float("inf")):
            (grad,) = whole((8, 3))
            grad[-1, 1] = bad  # on the last rank
            params = [distributed(grad, mesh, [Shard(0)])]
            with pytest.raises(RuntimeError, match="non-finite"):
                runtime.clip_grad_norm_(params, 1.0, norm_type, error_if_nonfinite=True)
            where = "1 of 1 gradients are not finite" if rank == size - 1 else "those of another"
            names = [("weight", params[0])]
            with pytest.raises(RuntimeError, match=where):
                runtime.clip_grad_norm_(params, 1.0, norm_type, nonfinite="raise", names=names)
            norm = runtime.clip_grad_norm_(params, 1.0, norm_type)
            assert norm.isnan().item() == (bad != bad)
            assert not norm.isfinite()


def nonfinite_is_skipped_by_all(rank: int, size: int) -> None:
    """Sharded, replicated and staged: the bad element is on the last rank, and all ranks zero their gradients."""
    mesh = init_device_mesh(device(), (size,))
    for bad in (float("nan"), float("inf")):
        for norm_type in (2.0, 3.0, INF):
            grads = whole((8, 3), (5,))
            grads[0][-1, 1] = bad
            params = [distributed(grads[0], mesh, [Shard(0)]), replicated(grads[1])]
            norm = runtime.clip_grad_norm_(params, 1.0, norm_type, nonfinite="skip")
            assert norm.isnan().item() == (bad != bad)
            assert not norm.isfinite()
            assert not any(of_this_rank(p.grad).any() for p in params)
            staged = [replicated(grads[0] if rank == size - 1 else grads[1])]
            norm = runtime.clip_grad_norm_(staged, 1.0, norm_type, group=dist.group.WORLD, nonfinite="skip")
            assert not norm.isfinite()
            assert not staged[0].grad.any()
    params = [distributed(grad, mesh, [Shard(0)]) for grad in whole((8, 3), (5,))]
    runtime.clip_grad_norm_(params, MAX_NORM, nonfinite="skip")
    assert runtime.grad_norm(params).item() == pytest.approx(MAX_NORM, rel=1e-5)


def under_torch_compile(rank: int, size: int) -> None:
    """A graph break is fine; every call measures the current gradients."""
    mesh = init_device_mesh(device(), (size,))
    grads = whole((7, 13), (5,))
    params = [distributed(g, mesh, [Shard(0)]) for g in grads]
    compiled = torch.compile(lambda: runtime.clip_grad_norm_(params, MAX_NORM))
    for factor in (1.0, 3.0, 0.5):
        for p, grad in zip(params, grads, strict=True):
            p.grad = distribute_tensor(grad * factor, mesh, [Shard(0)])
        want = reference.total_norm([grad * factor for grad in grads])
        assert compiled().item() == pytest.approx(want, rel=2e-7)
        torch.testing.assert_close(params[0].grad.full_tensor(), grads[0] * (factor * MAX_NORM / want))


def out_of_place(rank: int, size: int) -> None:
    mesh = init_device_mesh(device(), (size,))
    (grad,) = whole((7, 13))
    param = distributed(grad, mesh, [Shard(0)])
    clipped = runtime.clipped_grads([param], MAX_NORM)
    assert clipped.norm.item() == pytest.approx(reference.total_norm([grad]), rel=2e-7)
    assert clipped.clipped_norm.item() == pytest.approx(MAX_NORM, rel=1e-5)
    torch.testing.assert_close(param.grad.full_tensor(), grad)
    assert clipped.grads[0].full_tensor().norm().item() == pytest.approx(MAX_NORM, rel=1e-5)
    total = runtime.get_total_norm([param.grad])
    assert total.item() == pytest.approx(reference.total_norm([grad]), rel=2e-7)
    runtime.clip_grads_with_norm_([param], MAX_NORM, total)
    assert param.grad.full_tensor().norm().item() == pytest.approx(MAX_NORM, rel=1e-5)


def fsdp2_module(rank: int, size: int) -> None:
    from torch.distributed.fsdp import fully_shard

    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(13, 7), torch.nn.Linear(7, 3)).to(device())
    twin = [p.detach().clone().requires_grad_() for p in model.parameters()]
    inputs = torch.randn(4, 13, device=device())
    for layer in model:  # with gloo and GPUs, each mesh creates a separate group
        fully_shard(layer, mesh=init_device_mesh(device(), (size,)))
    fully_shard(model, mesh=init_device_mesh(device(), (size,)))
    model(inputs).square().sum().backward()
    hidden = torch.nn.functional.linear(inputs, twin[0], twin[1])
    torch.nn.functional.linear(hidden, twin[2], twin[3]).square().sum().backward()
    whole_grads = [p.grad.full_tensor() for p in model.parameters()]
    adds_up = device() == "cpu" and VERSION < (2, 8)  # gloo did not average then
    for grad, p in zip(whole_grads, twin, strict=True):
        torch.testing.assert_close(grad, p.grad * (size if adds_up else 1))
    check(list(model.parameters()), whole_grads, 1)


def fsdp2_offloaded_to_the_cpu(rank: int, size: int) -> None:
    """Gradients on the CPU, a mesh of GPUs; on a mesh of CPUs there is nothing to offload."""
    from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard

    torch.manual_seed(3)
    model = torch.nn.Sequential(torch.nn.Linear(13, 7), torch.nn.Linear(7, 3))
    twin = [p.detach().to(device()).requires_grad_() for p in model.parameters()]
    inputs = torch.randn(4, 13, device=device())
    mesh = init_device_mesh(device(), (size,))
    for layer in (*model, model):
        fully_shard(layer, mesh=mesh, offload_policy=CPUOffloadPolicy())
    model(inputs).square().sum().backward()
    hidden = torch.nn.functional.linear(inputs, twin[0], twin[1])
    torch.nn.functional.linear(hidden, twin[2], twin[3]).square().sum().backward()
    params = list(model.parameters())
    assert {p.grad.to_local().device.type for p in params} == {"cpu"}
    want = reference.total_norm([p.grad for p in twin])
    for norm_type in (2.0, 3.0, INF, 0.0):
        expected = reference.total_norm([p.grad for p in twin], norm_type)
        assert runtime.grad_norm(params, norm_type).item() == pytest.approx(expected, rel=1e-6)
    norm = runtime.clip_grad_norm_(params, MAX_NORM)
    assert norm.device.type == "cpu"
    assert norm.item() == pytest.approx(want, rel=1e-6)
    for p, other in zip(params, twin, strict=True):
        parts = other.grad.cpu().chunk(size)
        part = parts[rank] if rank < len(parts) else other.grad.cpu()[:0]
        torch.testing.assert_close(p.grad.to_local(), part * (MAX_NORM / (want + 1e-6)))


def plain_and_sharded_on_two_devices(rank: int, size: int) -> None:
    """A parameter on the CPU mixed with DTensors on GPUs, and the other way around."""

    mesh = init_device_mesh(device(), (size,))
    grads = whole((8, 6), (5,))
    for order in (1, -1):
        params = [distributed(grads[0], mesh, [Shard(0)]), replicated(grads[1].cpu())][::order]
        norm = runtime.clip_grad_norm_(params, MAX_NORM)
        want = reference.total_norm(grads)
        assert norm.device.type == params[0].device.type
        assert norm.item() == pytest.approx(want, rel=2e-7)
        assert runtime.grad_norm(params).item() == pytest.approx(MAX_NORM, rel=1e-5)


def fsdp1_is_refused(rank: int, size: int) -> None:
    from torch.distributed.fsdp import FullyShardedDataParallel

    model = FullyShardedDataParallel(
        torch.nn.Linear(4, 4),
        device_id=torch.device(device(), rank) if device() == "cuda" else torch.device("cpu"),
        use_orig_params=rank >= 0,
    )
    model(torch.randn(2, 4, device=device())).sum().backward()
    with pytest.raises(RuntimeError, match=r"model\.clip_grad_norm_"):
        runtime.clip_grad_norm_(model.parameters(), 1.0)


CASES: list[Case] = [
    fsdp2_uneven,
    orders_below_zero,
    no_power_overflows_or_vanishes,
    the_zero_norm_counts_gradients,
    hsdp_and_tensor_parallel,
    partial_gradients,
    missing_gradients,
    pipeline,
    experts,
    equal_groups_are_one,
    nonfinite,
    nonfinite_is_skipped_by_all,
    under_torch_compile,
    out_of_place,
    fsdp2_module,
    plain_and_sharded_on_two_devices,
    fsdp1_is_refused,
]
ON_GPUS = [fsdp2_offloaded_to_the_cpu]
OF_PROCESSES = [under_torch_compile, fsdp2_module]  # threads share random numbers, and compiling takes seconds
FSDP2 = hasattr(fsdp, "fully_shard")
FSDP2_ON_CPU = FSDP2 and hasattr(torch.cpu.current_stream(), "record_event")  # which it calls there, too


def cases(setup: Setup) -> list[Case]:
    if setup.backend == "threads":
        return [case for case in CASES if case not in OF_PROCESSES]
    return CASES + ON_GPUS * (setup.device == "cuda")


def _runnable(setup: Setup) -> tuple[Case, ...]:
    has_fsdp2 = FSDP2 if setup.device == "cuda" else FSDP2_ON_CPU
    return tuple(case for case in cases(setup) if has_fsdp2 or case not in (fsdp2_module, fsdp2_offloaded_to_the_cpu))


@pytest.mark.parametrize(
    ("setup", "case"),
    [pytest.param(setup, case, id=f"{setup}-{case.__name__}") for setup in SETUPS for case in cases(setup)],
)
def test_every_rank_agrees_with_the_unsharded_gradients(setup: Setup, case: Case) -> None:
    if case not in _runnable(setup):
        pytest.skip("public FSDP2 came with torch 2.6, and works on the CPU from 2.7 on")
    every_rank_agrees(setup, case, _runnable(setup))


@pytest.mark.skipif(not dist.is_available(), reason="torch has no process groups here")
def test_a_group_that_torch_does_not_list_stands_for_itself() -> None:
    from clipcheck.runtime.spread import _one_for_equal

    one, other = dist.ProcessGroup(0, 2), dist.ProcessGroup(0, 2)
    assert _one_for_equal([(one,), (), (other, one)]) == [(one,), (), (other, one)]
