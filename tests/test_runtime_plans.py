"""A sharded clip is still right after anything that its plan depends on has changed."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from unittest import mock

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
    replicated,
    whole,
)
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh  # noqa: E402

from clipcheck import runtime  # noqa: E402
from clipcheck.runtime import again, clip, reference, spread  # noqa: E402


def with_a_group_of_its_own(size: int) -> DeviceMesh:
    """A mesh of all ranks with a separate group; torch might reuse the default group."""
    return DeviceMesh.from_group(dist.new_group(list(range(size)), backend=dist.get_backend()), device())


def a_plan_is_made_once(rank: int, size: int) -> None:
    """Even if every step redistributes the gradients; each list has one plan."""
    mesh = init_device_mesh(device(), (size,))
    grads = whole((7, 13), (5,))
    params = [distributed(g, mesh, [Shard(0)]) for g in grads]
    spread._plans.clear()
    check(params, grads, 1)
    (plan,) = spread._plans
    assert [id(mesh) for mesh in plan.meshes] == [id(params[0].device_mesh)]  # kept, since known by its identity
    for _ in range(2):
        for p, grad in zip(params, grads, strict=True):
            p.grad = distribute_tensor(grad.clone(), mesh, [Shard(0)])
        check(params, grads, 1)
    check([distributed(g, mesh, [Shard(0)]) for g in grads], grads, 1)  # other parameters, laid out alike
    assert runtime.grad_norm([distribute_tensor(g, mesh, [Shard(0)]).requires_grad_() for g in grads]).item() == 0
    assert spread._plans == [plan]
    for p in params:
        p.grad = None
    runtime.clip_grad_norm_(params, 1.0)
    assert spread._plans == [plan]


def other_placements_of_the_same_parameters(rank: int, size: int) -> None:
    """The parameters stay the same objects, with a different layout."""
    mesh = init_device_mesh(device(), (size,))
    grads = whole((8, 6), (5, 4))
    params = [distributed(g, mesh, [Shard(0)]) for g in grads]
    check(params, grads, 1)
    for placements, groups in (([Replicate()], 0), ([Shard(1)], 1), ([Replicate()], 0), ([Shard(0)], 1)):
        for p, grad in zip(params, grads, strict=True):
            other = distributed(grad, mesh, placements)
            p._local_tensor, p._spec, p.grad = other._local_tensor, other._spec, None
            p.grad = other.grad
        check(params, grads, groups)
    # One of several, the last one.
    other = distributed(grads[1], mesh, [Replicate()])
    params[1]._local_tensor, params[1]._spec, params[1].grad = other._local_tensor, other._spec, None
    params[1].grad = other.grad
    params[0].grad = distribute_tensor(grads[0].clone(), mesh, [Shard(0)])
    check(params, grads, 1)
    # A layout that is changed in place.
    params[1]._spec.placements = (Shard(0),)
    params[1]._local_tensor = grads[1].tensor_split(size)[rank].contiguous()
    params[1].grad = distribute_tensor(grads[1].clone(), mesh, [Shard(0)])
    params[0].grad = distribute_tensor(grads[0].clone(), mesh, [Shard(0)])
    check(params, grads, 1)


def other_meshes_that_are_equal(rank: int, size: int) -> None:
    """A mesh of the same ranks with different groups, and one that is freed and replaced at the same address."""
    grads = whole((8, 6), (5,))
    meshes = [with_a_group_of_its_own(size) for _ in range(2)]
    assert meshes[0] == meshes[1]
    for mesh in (*meshes, *meshes):
        # Not a `Parameter`: creating one is an operation, whose result torch puts on the first of equal meshes.
        params = [distribute_tensor(torch.zeros_like(g), mesh, [Shard(0)]).requires_grad_() for g in grads]
        for p, grad in zip(params, grads, strict=True):
            p.grad = distribute_tensor(grad.clone(), mesh, [Shard(0)])
        check(params, grads, 1)
        with counted() as sizes:
            runtime.grad_norm(params)
        assert sizes.groups == [mesh.get_group()]
    for shape in ((size,), (1, size), (size,), (1, size)):
        mesh = init_device_mesh(device(), shape)
        placements = [Replicate()] * (len(shape) - 1) + [Shard(0)]
        check([distributed(g, mesh, placements) for g in grads], grads, 1)
        del mesh
        gc.collect()
    if size == 4:  # of two halves each rank knows its own
        mesh = init_device_mesh(device(), (2, 2))
        check([distributed(g, mesh, [Replicate(), Shard(0)]) for g in grads], grads, 1)
        check([distributed(g, mesh, [Shard(0), Replicate()]) for g in grads], grads, 1)
        check([distributed(g, mesh, [Shard(0), Shard(0)]) for g in grads], grads, 2)


def a_gradient_in_the_place_of_another(rank: int, size: int) -> None:
    """Replaced by one with another layout, mesh or dtype, or by a partial sum; removed on one rank or on all."""
    mesh, twin = init_device_mesh(device(), (size,)), init_device_mesh(device(), (size,))
    grads = whole((8, 6), (12,))
    params = [distributed(g, mesh, [Shard(0)]) for g in grads]
    kept = params[1].grad
    check(params, grads, 1)

    def again(first: torch.Tensor) -> None:
        params[1].grad = distribute_tensor(grads[1].clone(), mesh, [Shard(0)])
        params[0].grad = first

    for placements in ([Replicate()], [Shard(1)], [Shard(0)]):
        again(distribute_tensor(grads[0].clone(), mesh, placements))
        measured = runtime.clip_grad_norm_(params, MAX_NORM)
        assert measured.item() == pytest.approx(reference.total_norm(grads), rel=2e-7)
        torch.testing.assert_close(params[0].grad.full_tensor(), grads[0] * (MAX_NORM / measured.item()))
    again(DTensor.from_local(grads[0] / size, mesh, [Partial()]))
    assert runtime.clip_grad_norm_(params, 1e9).item() == pytest.approx(reference.total_norm(grads), rel=2e-7)
    again(distribute_tensor(grads[0].clone(), twin, [Shard(0)]))
    check(params, grads, 1)
    again(distribute_tensor(grads[0].clone(), mesh, [Shard(0)]))
    check(params, grads, 1)
    params[0].grad, params[1].grad = None, kept
    params[1].grad = distribute_tensor(grads[1].clone(), mesh, [Shard(0)])
    check(params, grads[1:], 1)
    params[1].requires_grad_(False)  # what is there counts, as in torch
    params[1].grad.copy_(distribute_tensor(grads[1], mesh, [Shard(0)]))
    check(params, grads[1:], 1)


def a_local_part_in_the_place_of_another(rank: int, size: int) -> None:
    """The DTensor stays but its memory is replaced: other addresses, dtypes, strides, the same number of elements."""
    mesh = init_device_mesh(device(), (size,))
    grads = whole((8, 6), (12,))
    params = [distributed(g, mesh, [Shard(0)]) for g in grads]
    check(params, grads, 1)
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float32):
        local = grads[0].tensor_split(size)[rank].to(dtype).contiguous()
        params[0].grad._local_tensor = local.clone()
        params[1].grad = distribute_tensor(grads[1].clone(), mesh, [Shard(0)])
        norm = runtime.clip_grad_norm_(params, MAX_NORM)
        want = reference.total_norm([grads[0].to(dtype), grads[1]])
        assert norm.item() == pytest.approx(want, rel=2e-7)
        tolerance = {"rtol": 1e-2, "atol": 1e-3} if dtype == torch.bfloat16 else {}
        torch.testing.assert_close(params[0].grad._local_tensor, (local * (MAX_NORM / want)).to(dtype), **tolerance)
    params[0].grad._local_tensor = grads[0].tensor_split(size)[rank].t().contiguous().t()
    params[1].grad = distribute_tensor(grads[1].clone(), mesh, [Shard(0)])
    check(params, grads, 1)


def other_lists_of_the_same_length(rank: int, size: int) -> None:
    """The order of the parameters, including plain ones, and what `shard_group` returns for them."""
    mesh = init_device_mesh(device(), (size,))
    grads = whole((8, 6), (size * 3,), (4,))

    def made() -> list[torch.Tensor]:
        part = grads[1].chunk(size)[rank].clone()
        return [distributed(grads[0], mesh, [Shard(0)]), replicated(part), replicated(grads[2])]

    for order in ((0, 1, 2), (1, 0, 2), (2, 1, 0), (0, 1, 2)):
        params = made()
        split = params[1]
        check(
            [params[i] for i in order],
            [grads[i] for i in order],
            1,
            shard_group=lambda p, split=split: dist.group.WORLD if p is split else None,
        )
    params = made()  # the same parameters, of which all are whole now
    want = reference.total_norm([grads[0], params[1].grad, grads[2]])
    with counted() as sizes:
        assert runtime.grad_norm(params).item() == pytest.approx(want, rel=1e-7)
    assert len(sizes) == 1
    with counted() as sizes:  # or all are parts, also the last one
        split = reference.total_norm([grads[0], grads[1], *([grads[2]] * size)])
        assert runtime.grad_norm(params, shard_group=dist.group.WORLD).item() == pytest.approx(split, rel=1e-7)
    assert len(sizes) == 1
    with counted() as sizes:  # or the ranks are stages
        stages = reference.total_norm([*([grads[0]] * size), grads[1], *([grads[2]] * size)])
        assert runtime.grad_norm(params, group=dist.group.WORLD).item() == pytest.approx(stages, rel=1e-7)
    assert len(sizes) == 2
    twin = dist.new_group(list(range(size - 1)), backend=dist.get_backend())
    for all_groups, numbers in ((None, 1), ([dist.group.WORLD], 1), ([dist.group.WORLD, twin], 2), (None, 1)):
        with counted() as sizes:  # or the groups that always take part are given, or other ones
            split = runtime.grad_norm(params, shard_group=dist.group.WORLD, all_groups=all_groups)
        assert split.item() == pytest.approx(reference.total_norm([grads[0], grads[1], *([grads[2]] * size)]), rel=1e-7)
        assert sizes[0] == numbers


def a_destroyed_group(rank: int, size: int) -> None:
    """A destroyed group is not used again; a new group of the same ranks is."""
    grads = whole((size * 3, 2), (5,))

    def params() -> list[torch.Tensor]:
        return [replicated(grads[0].chunk(size)[rank]), replicated(grads[1])]

    for _ in range(2):
        group = dist.new_group(list(range(size)), backend=dist.get_backend())
        held = params()
        check(held, grads, 1, shard_group=lambda p, held=held, group=group: group if p is held[0] else None)
        dist.destroy_process_group(group)
    mesh = with_a_group_of_its_own(size)
    sharded = [distributed(g, mesh, [Shard(0)]) for g in grads]
    check(sharded, grads, 1)
    dist.destroy_process_group(mesh.get_group())
    with pytest.raises(Exception):  # noqa: B017, PT011 - torch's own error, which depends on the version
        runtime.clip_grad_norm_(sharded, 1.0)


def plans_are_few_and_keep_no_parameter(rank: int, size: int) -> None:
    mesh = init_device_mesh(device(), (size,))
    grads = whole(*[(3,)] * (spread.PLANS + 5))
    params = [distributed(g, mesh, [Shard(0)]) for g in grads]
    for count in range(1, len(params) + 1):
        runtime.grad_norm(params[:count])
    assert len(spread._plans) == spread.PLANS
    kept = [weakref.ref(p) for p in params] + [weakref.ref(p.grad) for p in params]
    del params
    gc.collect()
    assert [ref() for ref in kept if ref() is not None] == []


def a_step_like_the_last_one_is_known_by_its_specs(rank: int, size: int) -> None:
    """With the kernels: the plan is not asked again until a gradient, or its parameter, has another spec."""
    mesh = init_device_mesh(device(), (size,))
    grads = whole((8, 3), (5,))
    params = [distributed(grad, mesh, [Shard(0)]) for grad in grads]
    again._forget()
    runtime.clip_grad_norm_(params, INF)
    has_kernels = device() == "cuda" or "TRITON_INTERPRET" in os.environ
    assert len(again._met) == has_kernels
    for _ in range(2):  # what a step does: new gradients, laid out by the same object
        for p, grad in zip(params, grads, strict=True):
            new = distribute_tensor(grad.clone(), mesh, [Shard(0)])
            new._spec = p.grad._spec
            p.grad = new
        with mock.patch.object(clip, "spread", wraps=clip.spread) as asked:
            check(params, grads, groups=1)
        assert asked.call_count == 3 - has_kernels  # two norms, and the clip
    assert again.clip_(params, INF, 3.0, False) is None
    params[1] = distributed(grads[1], mesh, [Replicate()])
    params[0].grad = distribute_tensor(grads[0].clone(), mesh, [Shard(0)])
    check(params, grads, groups=1)
    params[0].grad = None
    assert again.clip_(params, INF, 2.0, False) is None


CASES: tuple[Case, ...] = (
    a_plan_is_made_once,
    a_step_like_the_last_one_is_known_by_its_specs,
    other_placements_of_the_same_parameters,
    other_meshes_that_are_equal,
    a_gradient_in_the_place_of_another,
    a_local_part_in_the_place_of_another,
    other_lists_of_the_same_length,
    plans_are_few_and_keep_no_parameter,
    a_destroyed_group,
)


RUNNABLE = tuple(
    case
    for case in CASES
    if hasattr(DeviceMesh, "from_group") or case not in (other_meshes_that_are_equal, a_destroyed_group)
)


OF_PROCESSES = (  # threads share the caches that these look at, and their groups are gone once they are destroyed
    a_plan_is_made_once,
    a_step_like_the_last_one_is_known_by_its_specs,
    plans_are_few_and_keep_no_parameter,
    a_destroyed_group,
)


@pytest.mark.parametrize(
    ("setup", "case"),
    [
        pytest.param(setup, case, id=f"{setup}-{case.__name__}")
        for setup in SETUPS
        for case in CASES
        if setup.backend != "threads" or case not in OF_PROCESSES
    ],
)
@pytest.mark.usefixtures("frozen_heap")
def test_a_plan_is_dropped_when_its_inputs_change(setup: Setup, case: Case) -> None:
    if case not in RUNNABLE:
        pytest.skip("a mesh of a given group came with torch 2.3")
    every_rank_agrees(setup, case, RUNNABLE)


def test_no_process_group_outlives_the_interpreter() -> None:
    """With gloo, one in four processes of a job was aborted at exit, after all its work was done."""
    script = """
import atexit, sys
atexit.register(lambda: print(len(sys.modules["clipcheck.runtime.spread"]._plans)))  # the last to run
import torch, torch.distributed as dist
from clipcheck import runtime
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
runtime.grad_norm([torch.nn.Parameter(torch.ones(1))], group=dist.group.WORLD)
print(len(sys.modules["clipcheck.runtime.spread"]._plans))
dist.destroy_process_group()
"""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("torch has no gloo here")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "0"]
