"""The clip of sharded gradients, measured in the processes that torchrun has started."""

from __future__ import annotations

import contextlib
import gc
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from clipcheck.bench import measure, peers
from clipcheck.bench.run import Options, Row, rounds_of, rows_of
from clipcheck.bench.workloads import Shape, Workload

PEERS = ("clipcheck", "torch")  # a loop over local norms measures something else


class Layout(NamedTuple):
    """A way to shard: the shape of the mesh for a number of processes, and placements for a parameter."""

    name: str
    mesh: Callable[[int], Shape]
    placements: Callable[[int, Shape], list[Any]]  # given the index and the shape of the parameter


def layouts() -> list[Layout]:
    """Returns FSDP2, HSDP (replicas of shards, where there are four processes) and tensor parallelism."""
    from torch.distributed.tensor import Replicate, Shard

    def tensor_parallel(index: int, shape: Shape) -> list[Any]:
        return [Shard(index % 2) if len(shape) > 1 else Replicate()]

    return [
        Layout("FSDP2", lambda size: (size,), lambda index, shape: [Shard(0)]),
        Layout(
            "HSDP",
            lambda size: (max(1, size // max(2, size // 2)), max(2, size // 2)),
            lambda *_: [Replicate(), Shard(0)],
        ),
        Layout("TP", lambda size: (size,), tensor_parallel),
    ]


@contextlib.contextmanager
def processes(device: torch.device) -> Iterator[torch.device]:
    """Joins the process group, with NCCL for GPUs and gloo for others; yields the device of this process."""
    if device.type == "cuda":
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield device
        gc.collect()  # models are cycles: what they hold of a group goes before the group does
        dist.barrier()  # one that leaves first would break the connections of the others
    finally:
        dist.destroy_process_group()


def is_started() -> bool:
    """Whether torchrun has started this process."""
    return dist.is_available() and {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys()


def is_first() -> bool:
    """Whether this process is the one that tells the results."""
    return not _is_joined() or dist.get_rank() == 0


def agreed(loads: list[Workload]) -> list[Workload]:
    """Returns the workloads that the first process chose: the others may have found less free memory."""
    if not _is_joined():
        return loads
    chosen = [loads]
    dist.broadcast_object_list(chosen, src=0)
    return chosen[0]


def start_together() -> None:
    """Waits for the other processes, and for what they have given to their devices."""
    dist.barrier()


def of_the_slowest(timing: measure.Timing, device: torch.device) -> measure.Timing:
    """Returns the wall times of the process that took longest in each round."""
    every = torch.tensor(timing.walls, dtype=torch.float64, device=device)
    dist.all_reduce(every, dist.ReduceOp.MAX)
    return measure.Timing(every.tolist(), timing.device)


def machine() -> dict[str, Any]:
    """Returns what a figure of several processes must be read with, too."""
    return {"processes": dist.get_world_size(), "backend": dist.get_backend()} if _is_joined() else {}


def _is_joined() -> bool:
    return dist.is_available() and dist.is_initialized()


def clip(load: Workload, options: Options, bytes_a_second: float) -> Iterator[Row]:
    """Yields the rows of one workload under each layout; times are those of the slowest process in each round."""
    from torch.distributed.device_mesh import init_device_mesh

    size, device = dist.get_world_size(), options.device
    for layout in layouts():
        mesh = init_device_mesh(device.type, layout.mesh(size))
        params = _parameters(load, layout, mesh, device)
        held = [p.grad._local_tensor for p in params if p.grad is not None]  # type: ignore[attr-defined]
        originals = [grad.clone() for grad in held]
        norm = _exact_norm(params)
        own_bytes = sum(grad.nbytes for grad in held)
        for case, max_norm, passes in (("no clip", 10 * norm, 1), ("clip", norm / 2, 3)):
            reset = _reset(held, originals if case == "clip" else [])
            calls = {name: _bound(peers.CLIPS[name], params, max_norm) for name in PEERS}
            errors: dict[str, float | None] = {name: _error(call, norm, reset) for name, call in calls.items()}
            timings = measure.interleaved(calls, device, reset, rounds_of(load, options))
            slowest = {name: of_the_slowest(timing, device) for name, timing in timings.items()}
            floor = 1e3 * passes * own_bytes / bytes_a_second
            yield from rows_of(f"{load.name}, {layout.name}", case, slowest, errors, floor)


def _reset(grads: list[Tensor], originals: list[Tensor]) -> measure.Call:
    """What comes before each call: gradients are refilled, and all processes start together."""

    def reset() -> None:
        for grad, original in zip(grads, originals, strict=False):
            grad.copy_(original)
        start_together()

    return reset


def _parameters(load: Workload, layout: Layout, mesh: Any, device: torch.device) -> list[Tensor]:
    """Sharded parameters, which share one storage, with random gradients; replicas have the same."""
    from torch.distributed.tensor import DTensor

    params: list[Tensor] = []
    for index, shape in enumerate(load.shapes):
        placements = layout.placements(index, shape)
        whole = torch.empty(shape, device="meta")
        own = _own_shape(whole, mesh, placements)
        part = [at for at, placement in zip(mesh.get_coordinate(), placements, strict=True) if placement.is_shard()]
        generator = torch.Generator(device).manual_seed(index + 10_000 * sum(part))
        grad = torch.empty(own, dtype=load.dtype, device=device).normal_(std=1e-3, generator=generator)
        data = torch.empty((), dtype=load.dtype, device=device).expand(own)
        local, gradient = (
            DTensor.from_local(held, mesh, placements, shape=whole.shape, stride=whole.stride())
            for held in (data, grad)
        )
        param = torch.nn.Parameter(local)
        param.grad = gradient
        params.append(param)
    return params


def _own_shape(whole: Tensor, mesh: Any, placements: list[Any]) -> torch.Size:
    """The shape of this rank's part: sharding cuts a dimension as `torch.chunk` does, and may leave nothing."""
    for dim, placement in enumerate(placements):
        if placement.is_shard():
            chunks = whole.chunk(mesh.size(dim), placement.dim)
            at = mesh.get_coordinate()[dim]
            empty = whole.narrow(placement.dim, 0, 0)
            whole = chunks[at] if at < len(chunks) else empty
    return whole.shape


def _exact_norm(params: list[Any]) -> float:
    """The 2-norm of the whole gradients in float64: of what is replicated each replica adds its share."""
    total = 0.0
    for p in params:
        mesh, placements = p.device_mesh, p.grad.placements
        replicas = math.prod(mesh.size(dim) for dim, placement in enumerate(placements) if placement.is_replicate())
        total += measure.exact_norm([p.grad._local_tensor]) ** 2 / replicas
    squares = torch.tensor(total, dtype=torch.float64, device=params[0].device)
    dist.all_reduce(squares)
    return math.sqrt(squares.item())


def _error(call: measure.Call, exact: float, reset: measure.Call) -> float:
    reset()
    norm: Any = call()
    return abs(float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm) / exact - 1)


def _bound(clip: peers.Clip, params: list[Tensor], max_norm: float) -> measure.Call:
    return lambda: clip(params, max_norm)
