"""The arguments for large training: meshes, stages, tied embeddings, experts, gradients stored elsewhere."""

from __future__ import annotations

from collections.abc import Callable

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
from processes import (  # noqa: E402
    INF,
    MAX_NORM,
    SETUPS,
    Case,
    Setup,
    Shard,
    check,
    counted,
    device,
    distributed,
    every_rank_agrees,
    replicated,
    whole,
)
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402

from clipcheck import runtime  # noqa: E402
from clipcheck.runtime import reference  # noqa: E402

NORM_TYPES = (1.0, 2.0, 3.0, INF)


def a_mesh_is_taken_for_its_groups(rank: int, size: int) -> None:
    mesh = init_device_mesh(device(), (2, size // 2), mesh_dim_names=("pp", "ep"))
    stages = [whole((4, stage + 1), (size // 2 * 3, 2)) for stage in range(2)]
    everything = [grad for stage in stages for grad in stage]
    stage, place = mesh.get_coordinate()

    def params() -> list[torch.Tensor]:
        shared, experts = stages[stage]
        return [replicated(shared), replicated(experts.chunk(size // 2)[place])]

    def of_experts(held: list[torch.Tensor], group: object) -> Callable[[torch.Tensor], object]:
        return lambda p: group if p is held[1] else None

    want = reference.total_norm(everything)
    for of in (mesh["ep"], mesh.get_group("ep")):
        for group in (mesh["pp"], [mesh["pp"]], mesh.get_group("pp"), iter([mesh.get_group("pp")])):
            held = params()
            got = runtime.clip_grad_norm_(held, MAX_NORM, group=group, shard_group=of_experts(held, of))
            assert got.item() == pytest.approx(want, rel=2e-7)
    # Every rank has different parameters: a mesh of two dimensions stands for both groups.
    own = [whole((3, other + 1))[0] for other in range(size)]
    with counted() as sizes:
        got = runtime.grad_norm([replicated(own[rank])], group=mesh)
    assert got.item() == pytest.approx(reference.total_norm(own), rel=1e-7)
    assert len(sizes) == 1 + (size > 2)
    part = whole((size * 2, 3))
    for split in (mesh, lambda p: mesh):
        held = [replicated(part[0].chunk(size)[rank])]
        check(held, part, 1 + (size > 2), shard_group=split)


def stages_of_other_kinds(rank: int, size: int) -> None:
    """The first stage has sharded and whole parameters, the others only whole ones: still one number per stage."""
    mesh = init_device_mesh(device(), (2, size // 2), mesh_dim_names=("pp", "tp"))
    stage, place = mesh.get_coordinate()
    split, first, second = whole((size // 2 * 3, 2), (5,), (4,))
    params = [replicated(second)] if stage else [replicated(split.chunk(size // 2)[place]), replicated(first)]
    for norm_type in NORM_TYPES:
        got = runtime.grad_norm(
            params,
            norm_type,
            group=mesh["pp"],
            shard_group=lambda p: mesh["tp"] if stage == 0 and p is params[0] else None,
        )
        assert got.item() == pytest.approx(reference.total_norm([split, first, second], norm_type), rel=1e-7)


def tied_embeddings_count_once(rank: int, size: int) -> None:
    """The first and the last stage have the same embedding, with the same gradient."""
    embedding, *stages = whole((10, 4), *[(3, other + 1) for other in range(size)])
    everything = [embedding, *stages]
    at_ends = rank in (0, size - 1)

    def params() -> list[torch.Tensor]:
        return [replicated(embedding)] * at_ends + [replicated(stages[rank])]

    for norm_type in (*NORM_TYPES, 0.0):
        held = params()
        want = reference.total_norm(everything, norm_type)
        counts = {id(held[0]): rank == 0} if at_ends else {}
        how = {"group": dist.group.WORLD, "counts": lambda p, counts=counts: counts.get(id(p), True)}
        assert runtime.grad_norm(held, norm_type, **how).item() == pytest.approx(want, rel=1e-7)
        assert runtime.get_total_norm(
            [p.grad for p in held],
            norm_type,
            group=dist.group.WORLD,
            counts=lambda grad, held=held: not at_ends or rank == 0 or grad is not held[0].grad,
        ).item() == pytest.approx(want, rel=2e-7)
        assert runtime.clip_grad_norm_(held, MAX_NORM, norm_type, **how).item() == pytest.approx(want, rel=2e-7)
        scale = MAX_NORM / (want + 1e-6)
        for p, grad in zip(held, params(), strict=True):  # scaled, whether it counts or not
            torch.testing.assert_close(p.grad, grad.grad * scale)
    held = params()
    clipped = runtime.clipped_grads(
        held, MAX_NORM, group=dist.group.WORLD, counts=lambda p: not at_ends or rank == 0 or p is not held[0]
    )
    assert clipped.norm.item() == pytest.approx(reference.total_norm(everything), rel=2e-7)
    assert clipped.clipped_norm.item() == pytest.approx(MAX_NORM, rel=1e-5)


def what_counts_beside_shards(rank: int, size: int) -> None:
    """Duplicates of tensor parallelism count only on the first rank, mixed with shards that count everywhere."""
    mesh = init_device_mesh(device(), (size,))
    grads = whole((8, 6), (5,), (size * 2, 3))
    params = [
        distributed(grads[0], mesh, [Shard(0)]),
        replicated(grads[1]),
        replicated(grads[2].chunk(size)[rank].clone()),
    ]
    for norm_type in NORM_TYPES:
        measured = runtime.grad_norm(
            params,
            norm_type,
            shard_group=dist.group.WORLD,
            counts=lambda p: rank == 0 or p is not params[1],
        )
        assert measured.item() == pytest.approx(reference.total_norm(grads, norm_type), rel=1e-7)
    # Nothing that this rank has counts here.
    nothing = runtime.grad_norm(params[1:], shard_group=dist.group.WORLD, counts=lambda p: rank == size - 1)
    want = reference.total_norm([grads[1], grads[2].chunk(size)[-1]])
    assert nothing.item() == pytest.approx(want, rel=1e-7)


def gradients_that_live_elsewhere(rank: int, size: int) -> None:
    mesh = init_device_mesh(device(), (size,))
    grads = whole((8, 6), (5,))
    params = [distributed(grads[0], mesh, [Shard(0)]), replicated(grads[1])]
    main = {id(p): p.grad for p in params}
    for p in params:
        p.main_grad, p.grad = p.grad, None
    want = reference.total_norm(grads)
    for gradient in ("main_grad", lambda p: p.main_grad, lambda p: main[id(p)]):
        assert runtime.grad_norm(params, gradient=gradient).item() == pytest.approx(want, rel=1e-7)
        total = runtime.clip_grad_norm_(params, 1e9, gradient=gradient)
        assert total.item() == pytest.approx(want, rel=2e-7)
    copies = runtime.clipped_grads(params, MAX_NORM, gradient="main_grad")
    assert copies.clipped_norm.item() == pytest.approx(MAX_NORM, rel=1e-5)
    runtime.clip_grads_with_norm_(params, MAX_NORM, total, gradient="main_grad", group=None, shard_group=None)
    torch.testing.assert_close(params[0].main_grad.full_tensor(), grads[0] * (MAX_NORM / want))
    torch.testing.assert_close(params[1].main_grad, grads[1] * (MAX_NORM / want))
    with pytest.raises(ValueError, match="copy"):
        runtime.clip_grad_norm_(params, MAX_NORM, gradient=lambda p: p.main_grad * 1)


def norm_and_clip_apart(rank: int, size: int) -> None:
    stages = [whole((4, stage + 1), (3,)) for stage in range(size)]
    expert = whole((size * 2, 3))[0]
    params = [*map(replicated, stages[rank])]
    grads = [p.grad for p in params]
    total = runtime.get_total_norm(grads, group=dist.group.WORLD)
    want = reference.total_norm([grad for stage in stages for grad in stage])
    assert total.item() == pytest.approx(want, rel=2e-7)
    runtime.clip_grads_with_norm_(params, MAX_NORM, total, group=dist.group.WORLD)
    torch.testing.assert_close(params[0].grad, stages[rank][0] * (MAX_NORM / want))
    part = expert.chunk(size)[rank].clone()
    measured = runtime.get_total_norm(
        [part, stages[0][0]], shard_group=lambda g: dist.group.WORLD if g is part else None
    )
    assert measured.item() == pytest.approx(reference.total_norm([expert, stages[0][0]]), rel=2e-7)


def a_rank_without_experts_takes_part(rank: int, size: int) -> None:
    mesh = init_device_mesh(device(), (size,))
    shared, experts = whole((8, 6), (size * 3, 2))
    parts = experts.chunk(size)
    for without in (0, size - 1):
        held = [part for other, part in enumerate(parts) if other != without]

        def params(without: int = without) -> list[torch.Tensor]:
            own = [] if rank == without else [replicated(parts[rank])]
            return [distributed(shared, mesh, [Shard(0)]), *own]

        for norm_type in NORM_TYPES:
            want = reference.total_norm([shared, *held], norm_type)
            mine = params()
            how = {
                "shard_group": lambda p, mine=mine: dist.group.WORLD if p is mine[-1] else None,
                "all_groups": [dist.group.WORLD],
            }
            assert runtime.grad_norm(mine, norm_type, **how).item() == pytest.approx(want, rel=1e-7)
            assert runtime.clip_grad_norm_(mine, MAX_NORM, norm_type, **how).item() == pytest.approx(want, rel=2e-7)
            assert runtime.clip_grad_norm_(mine, 1e9, norm_type, **how).item() == pytest.approx(MAX_NORM, rel=1e-5)
    # Ranks that hold nothing at all, and a rank that holds all.
    for holders in ([size - 1], list(range(size))):
        mine = [replicated(parts[rank])] if rank in holders else []
        want = reference.total_norm([parts[other] for other in holders])
        got = runtime.clip_grad_norm_(mine, 1e9, shard_group=dist.group.WORLD, all_groups=dist.group.WORLD)
        assert got.item() == pytest.approx(want, rel=2e-7)
    with pytest.raises(ValueError, match="0-norm"):
        runtime.grad_norm([replicated(shared)], 0, all_groups=[dist.group.WORLD])


def all_groups_of_a_mesh(rank: int, size: int) -> None:
    """Two kinds of groups, of which ranks use none, one or both; the same two numbers are sent over each."""
    mesh = init_device_mesh(device(), (2, size // 2), mesh_dim_names=("dp", "ep"))
    row, column = mesh.get_coordinate()
    both, over_rows, over_columns, everywhere = whole((size * 2, 3), (2 * 3, 2), (size // 2 * 3,), (7,))
    dp, ep = (mesh.get_group(dim) for dim in (0, 1))
    lists = {  # by rank: which it lists; all ranks of one column or row need not list the same
        0: ("both", "rows", "columns", "everywhere"),
        1: ("everywhere", "both", "rows"),
        2: ("columns", "both"),
        3: ("both",),
    }
    made = {
        "both": (both.chunk(size)[rank], [dp, ep]),
        "rows": (over_rows.chunk(2)[row], dp),
        "columns": (over_columns.chunk(size // 2)[column], ep),
        "everywhere": (everywhere, None),
    }
    params = {name: replicated(made[name][0].clone()) for name in lists[rank]}
    of = {id(p): made[name][1] for name, p in params.items()}
    # A rank does not have the parameters that it does not list: the listed parts are complete.
    squares = reference.total_norm([both]) ** 2
    if size == 2:
        squares += reference.total_norm([over_rows]) ** 2
        squares_here = squares + sum(
            reference.total_norm([p.grad]) ** 2 for name, p in params.items() if name in ("columns", "everywhere")
        )
    else:
        rows = [over_rows.chunk(2)[r] for r in range(2) if "rows" in lists[r * 2 + column]]
        columns = [over_columns.chunk(2)[c] for c in range(2) if "columns" in lists[row * 2 + c]]
        own = [everywhere] if "everywhere" in lists[rank] else []
        squares_here = squares + sum(reference.total_norm([grad]) ** 2 for grad in (*rows, *columns, *own))
    for all_groups in (mesh, [dp, ep], [mesh["dp"], mesh["ep"]]):
        with counted() as sizes:
            got = runtime.grad_norm(list(params.values()), shard_group=lambda p: of[id(p)], all_groups=all_groups)
        assert got.item() == pytest.approx(squares_here**0.5, rel=1e-7)
        assert sizes == [2] * (1 + (size > 2))
    if size > 2:
        with pytest.raises(ValueError, match="lacks"):
            runtime.grad_norm([params["both"]], shard_group=mesh, all_groups=[mesh["dp"]])
    with pytest.raises(ValueError, match="up to 8 groups"):
        runtime.grad_norm(list(params.values()), all_groups=[dist.group.WORLD] * 9)


def a_group_that_this_rank_is_not_in(rank: int, size: int) -> None:
    """`new_group` returns a placeholder on the ranks that are not in the group."""
    experts = dist.new_group(list(range(size - 1)), backend=dist.get_backend())
    parts = whole(*[(3, 2)] * size)
    mine = [replicated(parts[rank])]
    inside = rank < size - 1
    want = reference.total_norm(parts[:-1] if inside else parts[-1:])
    for how in (
        {"shard_group": lambda p: experts, "all_groups": [experts]},
        {"shard_group": experts},
        {"group": experts},
    ):
        assert runtime.clip_grad_norm_(mine, 1e9, **how).item() == pytest.approx(want, rel=2e-7)


CASES: tuple[Case, ...] = (
    a_mesh_is_taken_for_its_groups,
    stages_of_other_kinds,
    tied_embeddings_count_once,
    what_counts_beside_shards,
    gradients_that_live_elsewhere,
    norm_and_clip_apart,
    a_rank_without_experts_takes_part,
    all_groups_of_a_mesh,
    a_group_that_this_rank_is_not_in,
)


@pytest.mark.parametrize("setup", SETUPS, ids=str)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_one_norm_of_the_whole_model(setup: Setup, case: Case) -> None:
    every_rank_agrees(setup, case, CASES)


def test_in_one_process() -> None:
    """The arguments that need no process group."""
    grads = [torch.randn(5, 3), torch.randn(4)]
    params = [torch.nn.Parameter(torch.zeros_like(grad)) for grad in grads]
    for p, grad in zip(params, grads, strict=True):
        p.main_grad = grad.clone()
    want = reference.total_norm(grads[:1])
    norm = runtime.clip_grad_norm_(params, MAX_NORM, gradient="main_grad", counts=lambda p: p is params[0])
    assert norm.item() == pytest.approx(want, rel=2e-7)
    for p, grad in zip(params, grads, strict=True):
        torch.testing.assert_close(p.main_grad, grad * (MAX_NORM / want))
    assert runtime.grad_norm(params, gradient="main_grad", counts=lambda p: False).item() == 0
    assert runtime.grad_norm(params, gradient=lambda p: None).item() == 0
    half = torch.nn.Parameter(torch.zeros(2, dtype=torch.bfloat16))
    half.main_grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert runtime.clip_grad_norm_(half, 1.0, gradient="main_grad").dtype == torch.float64
    torch.testing.assert_close(half.main_grad, torch.tensor([0.6, 0.8], dtype=torch.float64), rtol=1e-6, atol=0)
    view = runtime.clip_grad_norm_(half, 0.5, gradient=lambda p: p.main_grad.view(1, 2))
    assert view.item() == pytest.approx(1, rel=1e-6)
    assert half.main_grad.norm().item() == pytest.approx(0.5, rel=1e-5)


def test_mistakes_are_reported() -> None:
    param = torch.nn.Parameter(torch.zeros(2))
    param.grad = torch.tensor([3.0, 4.0])
    for clip in (
        lambda **how: runtime.clip_grad_norm_(param, 1.0, **how),
        lambda **how: runtime.clip_grads_with_norm_(param, 1.0, 5.0, **how),
    ):
        with pytest.raises(ValueError, match="copy"):
            clip(gradient=lambda p: p.grad.float() * 1)
        with pytest.raises(AttributeError, match="no parameter has the attribute 'main_gard'"):
            clip(gradient="main_gard")
        with pytest.raises(TypeError, match="must give a tensor or None for a parameter, got `float`"):
            clip(gradient=lambda p: 1.0)
    assert param.grad.tolist() == [3.0, 4.0]
    for how in ({"group": "pp"}, {"shard_group": 3}, {"group": [dist]}):
        with pytest.raises(TypeError, match="expected a process group, a device mesh or several of them"):
            runtime.grad_norm(param, **how)
    assert runtime.grad_norm(param, gradient=lambda p: p.grad * 2).item() == 10  # nothing is scaled: copies are fine
