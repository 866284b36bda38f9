"""The benchmark of sharded gradients: what each rank holds of them, and the norm that all ranks together have."""

from __future__ import annotations

import math
import socket
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from conftest import runner

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402

if sys.platform == "win32" or not dist.is_available():
    pytest.skip("torch has no process groups here", allow_module_level=True)
pytest.importorskip("torch.distributed.tensor")

from torch.distributed.tensor import Replicate, Shard  # noqa: E402

from clipcheck.bench import cli, measure, peers, sharded, workloads  # noqa: E402
from clipcheck.bench.run import Options  # noqa: E402

CPU = torch.device("cpu")
SMALL = workloads.Workload("small", ((6, 4), (5,)), torch.float32)


class Mesh(NamedTuple):
    """What is asked of a mesh: how long each dimension is, and where this rank is."""

    shape: tuple[int, ...]
    at: tuple[int, ...]

    def size(self, dim: int) -> int:
        return self.shape[dim]

    def get_coordinate(self) -> list[int]:
        return list(self.at)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A process that torchrun has started, and no other."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    for name, value in {"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": 1, "MASTER_ADDR": "localhost", "MASTER_PORT": port}.items():  # fmt: skip
        monkeypatch.setenv(name, str(value))
    yield
    assert not dist.is_initialized()


# --- layouts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "meshes"),
    [
        ("FSDP2", {1: (1,), 2: (2,), 8: (8,)}),
        ("HSDP", {1: (1, 2), 2: (1, 2), 3: (1, 2), 4: (2, 2), 8: (2, 4)}),
        ("TP", {1: (1,), 2: (2,), 8: (8,)}),
    ],
)
def test_the_mesh_of_a_layout(name: str, meshes: dict[int, tuple[int, ...]]) -> None:
    layout = next(layout for layout in sharded.layouts() if layout.name == name)
    assert {size: layout.mesh(size) for size in meshes} == meshes


def test_the_placements_of_a_layout() -> None:
    found = {layout.name: [layout.placements(index, shape) for index, shape in enumerate([(4, 4), (4, 4), (4,)])]
             for layout in sharded.layouts()}  # fmt: skip
    assert found == {
        "FSDP2": [[Shard(0)]] * 3,
        "HSDP": [[Replicate(), Shard(0)]] * 3,
        "TP": [[Shard(0)], [Shard(1)], [Replicate()]],  # by rows and by columns in turns
    }


@pytest.mark.parametrize(
    ("mesh", "placements", "own"),
    [
        (Mesh((2,), (0,)), [Shard(0)], (3, 4)),
        (Mesh((2,), (0,)), [Shard(1)], (5, 2)),
        (Mesh((2,), (1,)), [Shard(0)], (2, 4)),
        (Mesh((2,), (1,)), [Replicate()], (5, 4)),
        (Mesh((4,), (2,)), [Shard(0)], (1, 4)),
        (Mesh((4,), (3,)), [Shard(0)], (0, 4)),  # pieces of two, of two and of one; nothing is left
        (Mesh((2, 2), (1, 0)), [Replicate(), Shard(0)], (3, 4)),
        (Mesh((2, 3), (1, 2)), [Shard(1), Shard(0)], (1, 2)),
    ],
)
def test_a_rank_has_its_part_of_a_parameter(mesh: Mesh, placements: list[Any], own: tuple[int, ...]) -> None:
    assert sharded._own_shape(torch.empty(5, 4), mesh, placements) == own


# --- processes ----------------------------------------------------------------------------------------------------------


def test_without_torchrun_there_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    assert not sharded.is_started()
    assert sharded.is_first()
    assert sharded.machine() == {}
    assert sharded.agreed([SMALL]) == [SMALL]
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not sharded.is_started()  # a rank of something else
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert sharded.is_started()


def test_a_process_joins_the_others_and_leaves_them(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with sharded.processes(CPU) as device:
        assert device == CPU
        assert sharded.machine() == {"processes": 1, "backend": "gloo"}
        assert sharded.is_first()
        assert sharded.agreed([SMALL]) == [SMALL]
        timing = measure.Timing([1.0, 2.0], 0.5)
        assert sharded.of_the_slowest(timing, CPU) == timing
        monkeypatch.setattr(dist, "get_rank", lambda: 1)
        assert not sharded.is_first()
        monkeypatch.undo()
    assert not dist.is_initialized()


def test_a_process_leaves_the_others_when_it_fails(alone: None) -> None:
    with pytest.raises(ZeroDivisionError), sharded.processes(CPU):
        raise ZeroDivisionError
    assert not dist.is_initialized()


def test_what_the_first_process_chose_and_the_slowest_took_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """As another process sees it."""

    def broadcast(listed: list[Any], src: int) -> None:
        assert src == 0
        listed[0] = ["chosen by the first"]

    def all_reduce(tensor: torch.Tensor, operation: Any) -> None:
        assert operation is dist.ReduceOp.MAX
        assert tensor.dtype is torch.float64
        tensor.copy_(torch.maximum(tensor, torch.tensor([3.0, 1.0], dtype=torch.float64)))

    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "broadcast_object_list", broadcast)
    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    assert sharded.agreed([SMALL]) == ["chosen by the first"]
    assert sharded.of_the_slowest(measure.Timing([2.0, 2.0], 0.5), CPU) == measure.Timing([3.0, 2.0], 0.5)


# --- gradients ------------------------------------------------------------------------------------------------------------


def test_the_exact_norm_counts_a_replica_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two replicas of a gradient of norm 4, and a part of norm 3 of one that is sharded: the other rank has as much."""

    def held(mesh: Mesh, placements: list[Any], norm: float) -> Any:
        gradient = SimpleNamespace(placements=placements, _local_tensor=torch.tensor([norm]))
        return SimpleNamespace(device_mesh=mesh, grad=gradient, device=CPU)

    def all_reduce(tensor: torch.Tensor) -> None:
        assert tensor.dtype is torch.float64
        tensor.mul_(2)

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    pair = Mesh((2,), (0,))
    assert sharded._exact_norm([held(pair, [Replicate()], 4.0), held(pair, [Shard(0)], 3.0)]) == math.sqrt(16 + 2 * 9)
    every = held(Mesh((2, 4), (0, 0)), [Replicate(), Replicate()], 8.0)
    assert sharded._exact_norm([every]) == math.sqrt(2 * 64 / 8)


def test_gradients_are_random_and_sharded_as_the_layout_says(alone: None) -> None:
    from torch.distributed.device_mesh import init_device_mesh

    with sharded.processes(CPU):
        layout = sharded.layouts()[0]
        mesh = init_device_mesh("cpu", (1,))
        first, second = (sharded._parameters(SMALL, layout, mesh, CPU) for _ in range(2))
        assert [tuple(p.shape) for p in first] == [(6, 4), (5,)]
        for p, other in zip(first, second, strict=True):
            assert p.requires_grad and p.grad.placements == (Shard(0),)
            local = p.grad._local_tensor
            assert torch.equal(local, other.grad._local_tensor)
            assert 0 < float(local.abs().max()) < 1e-2
            assert len(local.unique()) == local.numel()
            assert p.data._local_tensor.untyped_storage().nbytes() == 4  # one element: only gradients matter
        numbers = torch.cat([p.grad._local_tensor.flatten() for p in first])
        assert len(numbers.unique()) == numbers.numel()  # no two parameters have the same
        replicated = sharded.Layout("", lambda size: (size,), lambda *_: [Replicate()])
        assert torch.equal(
            sharded._parameters(SMALL, replicated, mesh, CPU)[0].grad._local_tensor, first[0].grad._local_tensor
        )


def test_every_layout_is_measured_with_and_without_clipping(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    clipped: list[tuple[str, float, float]] = []

    def noting(name: str) -> peers.Clip:
        def clip(params: list[Any], max_norm: float) -> object:
            before = sharded._exact_norm(params)
            norm = clips[name](params, max_norm)
            clipped.append((name, max_norm / before, sharded._exact_norm(params) / before))
            return norm

        return clip

    clips = dict(peers.CLIPS)
    for name in clips:
        monkeypatch.setitem(peers.CLIPS, name, noting(name))
    with sharded.processes(CPU):
        layouts = [layout for layout in sharded.layouts() if layout.name != "HSDP"]  # that takes two processes
        monkeypatch.setattr(sharded, "layouts", lambda: layouts)
        rows = list(sharded.clip(SMALL, Options(CPU, rounds=2), bytes_a_second=1e6))
    assert [(row.workload, row.case, row.peer) for row in rows] == [
        (f"small, {layout}", case, peer)
        for layout in ("FSDP2", "TP")
        for case in ("no clip", "clip")
        for peer in ("clipcheck", "torch")
    ]
    for row in rows:
        assert row.error is not None and row.error < 1e-5
        assert row.floor_ms == pytest.approx({"no clip": 1, "clip": 3}[row.case] * 29 * 4 / 1e6 * 1e3)
        assert row.ratio == 1.0 or row.peer == "clipcheck"
    assert len(clipped) == 2 * 2 * 2 * 4  # for the error, to warm up, and in two rounds
    for _, limit, left in clipped:  # each time with gradients that nothing has clipped yet
        assert limit in (pytest.approx(10), pytest.approx(0.5))
        assert left == pytest.approx(min(1.0, limit), rel=1e-3)


def test_the_error_of_a_norm_is_relative() -> None:
    log: list[str] = []
    assert sharded._error(lambda: torch.tensor(3.0), 2.0, lambda: log.append("reset")) == 0.5
    assert log == ["reset"]
    whole = type("Norm", (), {"full_tensor": lambda self: torch.tensor(1.0)})()
    assert sharded._error(lambda: whole, 2.0, lambda: None) == 0.5


# --- commands -------------------------------------------------------------------------------------------------------------


def test_the_command_measures_in_the_process_group(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "SHARDED", ("6x64x64",))
    layouts = [layout for layout in sharded.layouts() if layout.name == "FSDP2"]
    monkeypatch.setattr(sharded, "layouts", lambda: layouts)
    result = runner().invoke(cli.bench(), ["clip", "--sharded", "--device", "cpu", "--rounds", "1"])
    assert result.exit_code == 0, result.output
    assert "processes 1, backend gloo" in result.stdout
    assert result.stdout.count("6x64x64, FSDP2") == 4


def test_a_process_that_is_not_the_first_says_nothing(alone: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharded, "is_first", lambda: False)
    monkeypatch.setattr(measure, "bandwidth", lambda device: 1e9)
    layouts = [layout for layout in sharded.layouts() if layout.name == "FSDP2"]
    monkeypatch.setattr(sharded, "layouts", lambda: layouts)
    for words in (["clip", "--workload", "6x64x64"], ["step", "--model", "ppo-policy"]):
        result = runner().invoke(cli.bench(), [*words, "--sharded", "--device", "cpu", "--rounds", "1"])
        assert (result.exit_code, result.stdout) == (0, ""), result.output


@pytest.mark.parametrize("command", ["clip", "step"])
def test_sharded_gradients_need_torchrun(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    result = runner().invoke(cli.bench(), [command, "--sharded", "--device", "cpu"])
    assert result.exit_code == 2
    assert f"torchrun --nproc-per-node 2 -m clipcheck bench {command} --sharded" in result.stderr


def test_whole_steps_of_a_sharded_model(alone: None) -> None:
    if not hasattr(pytest.importorskip("torch.distributed.fsdp"), "fully_shard"):
        pytest.skip("public FSDP2 came with torch 2.6")
    words = ["step", "--sharded", "--device", "cpu", "--model", "ppo-policy", "--rounds", "1"]
    result = runner().invoke(cli.bench(), words)
    assert result.exit_code == 0, result.output
    assert "processes 1, backend gloo" in result.stdout
    clips = [line.split()[2] for line in result.stdout.splitlines() if line.startswith("ppo-policy")]
    assert clips == ["no", "torch", "clipcheck"]


# --- as with GPUs ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "device", "backend", "used"),
    [("cuda", "cuda:3", "nccl", ["cuda:3"]), ("cuda:0", "cuda:3", "nccl", ["cuda:3"]), ("cpu", "cpu", "gloo", [])],
)
def test_each_process_has_a_gpu_of_its_own(
    given: str, device: str, backend: str, used: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[Any] = []
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: log.append(str(device)))
    monkeypatch.setattr(dist, "init_process_group", lambda backend: log.append(backend))
    monkeypatch.setattr(dist, "barrier", lambda: log.append("barrier"))
    monkeypatch.setattr(dist, "destroy_process_group", lambda: log.append("destroyed"))
    with sharded.processes(torch.device(given)) as own:
        assert str(own) == device
        assert log == [*used, backend]
    assert log == [*used, backend, "barrier", "destroyed"]


def test_all_processes_begin_a_call_together(monkeypatch: pytest.MonkeyPatch) -> None:
    log: list[Any] = []
    monkeypatch.setattr(dist, "barrier", lambda: log.append([grad.tolist() for grad in grads]))
    grads, originals = [torch.zeros(2), torch.zeros(1)], [torch.ones(2), torch.full((1,), 3.0)]
    sharded._reset(grads, [])()
    sharded._reset(grads, originals)()
    assert log == [[[0, 0], [0]], [[1, 1], [3]]]


def test_a_model_is_sharded_block_by_block(monkeypatch: pytest.MonkeyPatch) -> None:
    from clipcheck.bench import models, steps

    sharded_: list[Any] = []
    monkeypatch.setitem(sys.modules, "torch.distributed.fsdp", SimpleNamespace(fully_shard=sharded_.append))
    with torch.device("meta"):
        gpt = models.GPT(2, 8, 7, 4)
        images = torch.nn.Sequential(models.Bottleneck(8, 2, 1), torch.nn.ReLU(), models.Bottleneck(8, 2, 1))
    for model, parts in ((gpt, [*gpt.blocks]), (images, [images[0], images[2]])):
        sharded_.clear()
        steps._shard_(model)
        assert sharded_ == [*parts, model]
