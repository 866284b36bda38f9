"""Processes over gloo or NCCL, or threads: how they start, and how the clip in them is compared with unsharded gradients."""

from __future__ import annotations

import functools
import importlib.util
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import interpreted
import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
import torch.multiprocessing as mp  # noqa: E402

try:
    from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor
except ImportError:  # private up to torch 2.4
    from torch.distributed._tensor import DTensor, Replicate, Shard, distribute_tensor
    from torch.distributed._tensor.placement_types import _Partial as Partial

import ranks_in_threads  # noqa: E402

from clipcheck import runtime  # noqa: E402
from clipcheck.runtime import reference  # noqa: E402

__all__ = ["DTensor", "Partial", "Replicate", "Shard", "distribute_tensor"]

TIMEOUT = timedelta(seconds=60)  # a collective that some rank does not join fails after this
MAX_NORM = 0.5
INF = float("inf")

Case = Callable[[int, int], None]  # given the rank and the number of ranks


class Setup(NamedTuple):
    """How the ranks talk to each other."""

    backend: str
    size: int
    interpreted: bool = False  # the kernels for GPUs, in Triton's interpreter

    def __str__(self) -> str:
        return f"{self.backend}-{self.size}{'-interpreted' * self.interpreted}"

    @property
    def device(self) -> str:
        """The type of the devices that the meshes are of: each rank has its own GPU, or all share the CPU."""
        return "cuda" if "nccl" in self.backend else "cpu"

    def missing(self) -> str:
        """Why it is unavailable here; empty if it is available."""
        if not dist.is_available() or sys.platform == "win32":
            return "torch has no process groups here"
        if self.backend == "threads" and ranks_in_threads.threaded() is None:
            return "this torch cannot run ranks in threads"
        if "gloo" in self.backend and not dist.is_gloo_available():
            return "torch has no gloo here"
        if self.interpreted and importlib.util.find_spec("triton") is None:
            return "needs triton"
        if "nccl" in self.backend and not dist.is_nccl_available():
            return "torch has no NCCL here"
        gpus = torch.cuda.device_count()
        return f"needs {self.size} GPUs, has {gpus}" if self.device == "cuda" and gpus < self.size else ""


SETUPS = [
    Setup("threads", 2),
    Setup("threads", 4),
    Setup("gloo", 2),
    Setup("gloo", 4),
    Setup("gloo", 2, interpreted=True),
    Setup("nccl", 2),
    Setup("nccl", 4),
    Setup("cpu:gloo,cuda:nccl", 2),
]
_device = "cpu"  # the setup's, in the processes


def device() -> str:
    """The type of the devices that the processes of this setup compute on."""
    return _device


def whole(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    """Gradients of the unsharded model, the same on every rank."""
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(shape, generator=generator).to(_device) for shape in shapes]


class Sizes(list[int]):
    """The number of elements of each all-reduce, and its group."""

    groups: list[object]


_counting = threading.local()  # the sizes that a rank counts now


@contextmanager
def counted() -> Iterator[Sizes]:
    """Counts the elements of each all-reduce of the runtime on this rank; DTensors may make others."""
    sizes = _counting.sizes = Sizes()
    sizes.groups = []
    try:
        yield sizes
    finally:
        _counting.sizes = None


@contextmanager
def _counting_all_reduces() -> Iterator[None]:
    original = dist.all_reduce

    def all_reduce(tensor: torch.Tensor, *args: object, **kwargs: object) -> object:
        sizes = getattr(_counting, "sizes", None)
        if sizes is not None and sys._getframe(1).f_globals["__name__"].startswith("clipcheck."):
            sizes.append(tensor.numel())
            sizes.groups.append(kwargs["group"])
        return original(tensor, *args, **kwargs)

    dist.all_reduce = all_reduce
    try:
        yield
    finally:
        dist.all_reduce = original


def of_this_rank(grad: torch.Tensor) -> torch.Tensor:
    return grad.to_local() if hasattr(grad, "to_local") else grad


def check(
    params: list[torch.Tensor],
    grads: list[torch.Tensor],
    groups: int,
    norm_type: float = 2.0,
    **how: object,
) -> None:
    """Clips `params`, whose whole gradients are `grads`, and compares norm, gradients and collectives.

    `groups` is the number of distinct process groups: one collective for each, two for powers that may overflow.
    """
    want = reference.total_norm(grads, norm_type)
    reduces = groups if norm_type in (0, 1, 2, INF) else 2 * groups
    measured = runtime.grad_norm(params, norm_type, **how)
    assert measured.item() == pytest.approx(want, rel=1e-7)
    before = [None if p.grad is None else of_this_rank(p.grad).clone() for p in params]
    with counted() as sizes:
        norm = runtime.clip_grad_norm_(params, MAX_NORM, norm_type, **how)
    assert type(norm) is torch.Tensor
    assert norm.dim() == 0
    assert norm.dtype == torch.float32
    assert norm.item() == pytest.approx(want, rel=2e-7)
    assert len(sizes) == reduces
    assert sum(sizes) <= 8
    scale = MAX_NORM / (want + 1e-6)
    for p, held in zip(params, before, strict=True):
        if held is not None:
            torch.testing.assert_close(of_this_rank(p.grad), held * scale)
    assert runtime.grad_norm(params, norm_type, **how).item() == pytest.approx(MAX_NORM, rel=1e-5)


def distributed(grad: torch.Tensor, mesh: object, placements: list[object]) -> torch.Tensor:
    """A parameter on the mesh whose gradient, combined, is `grad`."""

    param = torch.nn.Parameter(distribute_tensor(torch.zeros_like(grad), mesh, placements))
    param.grad = distribute_tensor(grad.clone(), mesh, placements)
    return param


def replicated(grad: torch.Tensor) -> torch.Tensor:
    param = torch.nn.Parameter(torch.zeros_like(grad))
    param.grad = grad.clone()
    return param


def _work(rank: int, setup: Setup, cases: tuple[Case, ...], port: int, reports: object) -> None:
    global _device
    _device = setup.device
    torch.set_num_threads(1)
    os.environ.pop("TRITON_INTERPRET", None)
    if setup.interpreted:
        os.environ["TRITON_INTERPRET"] = "1"
        interpreted.take_the_place_of_the_cpu()
    if _device == "cuda":
        torch.cuda.set_device(rank)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group(setup.backend, rank=rank, world_size=setup.size, timeout=TIMEOUT)
    with _counting_all_reduces():
        for case in cases:
            try:
                case(rank, setup.size)
                reports.put((case.__name__, rank, ""))
            except BaseException:
                reports.put((case.__name__, rank, traceback.format_exc()))
                break  # the other ranks may hang in a collective of this case; they time out
    dist.barrier()
    dist.destroy_process_group()


def _context(setup: Setup) -> Any:
    """How the processes start: without GPUs, as copies of one that has imported torch, where forks of it are safe.

    What it imports, imports Triton, and decides whether Triton's kernels are interpreted.
    """
    if setup.device == "cuda" or sys.platform != "linux":
        return mp.get_context("spawn")
    from multiprocessing import forkserver  # not on Windows

    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed.tensor", "torch.distributed.fsdp", "torch._dynamo"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        forkserver.ensure_running()
    return context


@functools.cache
def outcomes(setup: Setup, cases: tuple[Case, ...]) -> dict[str, dict[int, str]]:
    """Runs every case on so many processes, all in one spawn; returns the error messages by case and rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = _context(setup)
    reports = context.Queue()
    workers = [context.Process(target=_work, args=(rank, setup, cases, port, reports)) for rank in range(setup.size)]
    for worker in workers:
        worker.start()
    found: dict[str, dict[int, str]] = {}
    try:
        for _ in range(setup.size * len(cases)):
            name, rank, error = reports.get(timeout=100)
            found.setdefault(name, {})[rank] = error
            if error:
                break
    except Exception:  # no more results: missing ones are reported below
        pass
    finally:
        for worker in workers:
            worker.join(timeout=5)
            if worker.is_alive():
                worker.kill()
    return found


def every_rank_agrees(setup: Setup, case: Case, cases: tuple[Case, ...]) -> None:
    """Fails if a case fails or hangs on any rank."""
    if reason := setup.missing():
        pytest.skip(reason)
    if setup.backend == "threads":
        with _counting_all_reduces():
            found = {case.__name__: ranks_in_threads.outcome(case, setup.size)}
    else:
        found = outcomes(setup, cases)
    ranks = found.get(case.__name__, {})
    errors = "".join(ranks.values())
    of_all = "".join(error for each in found.values() for error in each.values())  # the first one ends the run
    if setup.interpreted and any(lack in of_all for lack in interpreted.LACKING):
        pytest.skip("the interpreter of this Triton has no float64, or does not work with this numpy")
    assert errors == "", errors
    assert sorted(ranks) == list(range(setup.size)), "a rank did not finish"
