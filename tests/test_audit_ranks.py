"""The audit under torchrun: two processes over gloo, whose clips are compared."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import PROJECT

torch = pytest.importorskip("torch")

from clipcheck.audit import gradients, ranks  # noqa: E402
from clipcheck.audit.log import Call, Event, Log  # noqa: E402
from clipcheck.audit.sites import Site  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="torchrun wants libuv there")

PROGRAM = """
    import os
    import torch
    import torch.distributed as dist
    alone = not dist.is_initialized()
    if alone:
        dist.init_process_group("gloo")
    rank = dist.get_rank()
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.Tanh(), torch.nn.Linear(16, 1))
    {prepare}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.manual_seed(rank)
    clip = torch.nn.utils.clip_grad_norm_
    def all_reduce():
        for p in model.parameters():
            dist.all_reduce(p.grad)
            p.grad /= 2
    for step in range(5):
        inputs = torch.randn(16, 8)
        optimizer.zero_grad()
        (model(inputs) - 3 * inputs.sum(1, keepdim=True)).square().mean().backward()
        {body}
        optimizer.step()
    {end}
    if alone:
        dist.destroy_process_group()
        os._exit(0)  # gloo aborts one process in a few at its end
"""
DDP = "model = torch.nn.parallel.DistributedDataParallel(model)"
FSDP2 = (
    "torch.distributed.fsdp.fully_shard(model, mesh=torch.distributed.device_mesh.init_device_mesh('cpu', (2,))); "
    "norms = []"
)
# Runs several under the audit, one after the other.
SEVERAL = """
    import os, sys
    import torch.distributed as dist
    from clipcheck.audit.__main__ import main
    dist.init_process_group("gloo")
    for name in sys.argv[1:]:
        code = main(["--output-file", name + ".txt", name + ".py"])
        if dist.get_rank() == 0:
            print(name, code, flush=True)
    dist.destroy_process_group()
    os._exit(0)
"""


def write(folder: Path, name: str, text: str, **parts: str) -> None:
    parts = {"prepare": "", "end": "", **parts}
    (folder / f"{name}.py").write_text(textwrap.dedent(text).format(**parts), encoding="utf-8")


def torchrun(folder: Path, *words: str) -> Any:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the reports of several programs, which share their two processes, since starting them takes most of the time."""
    folder = tmp_path_factory.mktemp("ranks")
    norms = "norms.append(clip(model.parameters(), 1.0).full_tensor().item())"
    end = "rank or open('norms.txt', 'w').write(' '.join(f'{norm:.4g}' for norm in sorted(norms)))"
    write(folder, "alike", PROGRAM, body="clip(model.parameters(), 1.0)", prepare=DDP)
    write(folder, "early", PROGRAM, body="clip(model.parameters(), 1.0); all_reduce()")
    write(folder, "shards", PROGRAM, body=norms, prepare=FSDP2, end=end)
    ones = "[torch.nn.init.ones_(p) for p in model.parameters()]; " + FSDP2  # the shards of both ranks begin alike
    write(folder, "ones", PROGRAM, body="clip(model.parameters(), 1.0)", prepare=ones)
    write(folder, "several", SEVERAL)
    done = torchrun(folder, "several.py", "alike", "early", "shards", "ones")
    assert done.stdout.splitlines() == ["alike 0", "early 1", "shards 0", "ones 0"], done.stderr
    return folder


def test_replicas_that_are_clipped_alike(folder: Path) -> None:
    report = (folder / "alike.txt").read_text(encoding="utf-8")
    assert "5 of 5 used clipped gradients" in report
    assert report.endswith("no faults found\n")


def test_a_clip_on_one_rank_only(tmp_path: Path) -> None:
    """What broke BLOOM's training: the replicas drift apart."""
    write(tmp_path, "train", PROGRAM, body="rank or clip(model.parameters(), 1.0)", prepare=DDP)
    done = torchrun(tmp_path, "-m", "clipcheck.audit", "--output-file", "report.txt", "train.py")
    assert done.returncode == 1, done.stderr
    report = (tmp_path / "report.txt").read_text(encoding="utf-8")
    said = "CLIP406 train.py:23: clips on some ranks only, 5 times on rank 0, 0 times on rank 1"
    assert said in report
    assert "the replicas' parameters were alike at the first step and are not at the last one" in report


def test_a_clip_before_the_gradients_are_reduced(folder: Path) -> None:
    """Each rank clips its own by another coefficient; the parameters stay alike."""
    report = (folder / "early.txt").read_text(encoding="utf-8")
    assert "early.py:23: replicas were clipped unlike in 5 calls: first norm " in report
    assert "CLIP413  early.py:23: clips before the gradients of all ranks are added up (in 5 of 5 steps)" in report
    assert "not at the last one" not in report


def test_shards_are_no_replicas(folder: Path) -> None:
    """They may begin alike, and need not stay so."""
    assert (folder / "ones.txt").read_text(encoding="utf-8").endswith("no faults found\n")


def test_the_norms_of_shards_are_combined(folder: Path) -> None:
    report = (folder / "shards.txt").read_text(encoding="utf-8")
    norms = (folder / "norms.txt").read_text().split()
    assert f"median {norms[2]}, 90% ≤ {norms[4]}, 99% ≤ {norms[4]}, max {norms[4]}; at the step max 1\n" in report


def summary(**changes: object) -> ranks.Summary:
    return {"clips": [["train.py:1", 1.0, 2.0]], "parts": [], "weights": [[3.0], [4.0]], **changes}


def test_pipeline_stages_have_different_norms() -> None:
    """Their parameters differ from the first step on, so nothing is compared."""
    stage = summary(weights=[[5.0], [6.0]], clips=[["train.py:1", 1.0, 7.0]])
    assert ranks.faults({0: summary(), 1: stage}) == []


def test_rounding_is_not_a_difference() -> None:
    other = summary(clips=[["train.py:1", 1.0, 2.0001]])
    assert ranks.faults({0: summary(), 1: other}) == []
    assert len(ranks.faults({0: summary(), 1: summary(clips=[["train.py:1", 1.0, 2.01]])})) == 1


@pytest.mark.parametrize(
    ("dimensions", "replicated", "parts"),
    [(1, (False,), 2), (1, (True,), 1), (2, (True, False), 0), (2, (True, True), 1)],
)
def test_over_how_many_ranks_a_tensor_is_spread(dimensions: int, replicated: tuple[bool, ...], parts: int) -> None:
    placements = [SimpleNamespace(is_replicate=lambda whole=whole: whole) for whole in replicated]
    mesh = SimpleNamespace(ndim=dimensions, size=lambda: 2**dimensions)
    spread = SimpleNamespace(device_mesh=mesh, placements=placements)
    assert gradients.parts([torch.ones(1), spread]) == parts


def test_a_rank_without_a_report_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "PATIENCE", 0.1)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    for name, value in (("LOCAL_WORLD_SIZE", "2"), ("WORLD_SIZE", "4"), ("LOCAL_RANK", "0"), ("RANK", "2")):
        monkeypatch.setenv(name, value)
    empty = Log([], [], 0, 0.0, [])
    assert ranks.compared(empty) == (
        empty,
        [],
        ["rank 3 has told nothing: it was not audited, or ended before", "the ranks of other hosts are not compared"],
    )
    assert list(tmp_path.iterdir()) == []


# --- in this process ------------------------------------------------------------------------------------------------------

LINE = Site("/x/train.py", 9, "main")


def clip(norm: float | None, limit: float = 1.0, parts: int = 1) -> Event:
    return Event("C", frozenset({1}), LINE, call=Call("clip_grad_norm_", limit, 2.0, (1,), ()), norm=norm, parts=parts)


def log(*events: Event) -> Log:
    return Log([*events], [], 1, 0.5, [])


@pytest.fixture
def rank(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Compares a log as this rank of so many; all are of one host unless the host has fewer."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(ranks, "PATIENCE", 0.0)
    monkeypatch.setattr(ranks.time, "sleep", lambda seconds: None)

    def compare(seen: Log, number: int, world: int, local: int | None = None, on_host: int | None = None) -> Any:
        values = {"RANK": number, "WORLD_SIZE": world, "LOCAL_RANK": number if local is None else local}
        values |= {"LOCAL_WORLD_SIZE": world if on_host is None else on_host, "MASTER_PORT": 29500}
        for name, value in values.items():
            monkeypatch.setenv(name, str(value))
        return ranks.compared(seen)

    return compare


def test_the_first_rank_compares_what_the_others_leave(rank: Callable[..., Any], tmp_path: Path) -> None:
    other, own = log(clip(4.0, parts=2), clip(7.0)), log(clip(3.0, parts=2), clip(7.0), Event("B", frozenset()))
    assert rank(other, 1, 2) == (other, [], [])
    (folder,) = tmp_path.iterdir()
    assert folder.name == f"clipcheck-audit-{os.getppid()}-29500"
    assert folder.stat().st_mode & 0o777 == 0o700  # norms are the user's own
    assert [path.name for path in folder.iterdir()] == ["1.json"]
    joined, faults, unseen = rank(own, 0, 2)
    assert [event.norm for event in joined.events] == [5.0, 7.0, None]
    assert (faults, unseen, list(tmp_path.iterdir())) == ([], [], [])


def test_a_single_rank_leaves_no_file(rank: Callable[..., Any], tmp_path: Path) -> None:
    seen = log(clip(3.0, parts=2))
    assert rank(seen, 0, 1) == (seen, [], [])
    assert list(tmp_path.iterdir()) == []


def test_ranks_of_another_host_are_not_waited_for(rank: Callable[..., Any], tmp_path: Path) -> None:
    rank(log(clip(4.0)), 3, 4, local=1, on_host=2)
    joined, faults, unseen = rank(log(clip(4.0)), 2, 4, local=0, on_host=2)
    assert unseen == ["the ranks of other hosts are not compared"]
    assert (len(joined.events), faults) == (1, [])


def test_how_many_ranks_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE", "RANK"):
        monkeypatch.delenv(name, raising=False)
    assert (ranks.world(), ranks.number("RANK")) == (1, 0)
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert ranks.world() == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert ranks.world() == 4


def test_other_ranks_are_waited_for(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    waited: list[float] = []
    first, late = tmp_path / "0.json", tmp_path / "1.json"
    first.write_text('{"a": 1}')

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            late.write_text('{"b": 2}')

    monkeypatch.setattr(ranks.time, "sleep", sleep)
    assert ranks._collected({0: first, 1: late}) == {0: {"a": 1}, 1: {"b": 2}}
    assert len(waited) == 3 and all(0 < seconds < 1 for seconds in waited)
    assert ranks.PATIENCE >= 10
    clock = iter([0.0, 1.0, ranks.PATIENCE - 0.1, ranks.PATIENCE])
    monkeypatch.setattr(ranks.time, "monotonic", lambda: next(clock))
    assert ranks._collected({0: first, 5: tmp_path / "5.json"}) == {0: {"a": 1}}
    assert next(clock, "none left") == "none left"


@pytest.mark.parametrize(
    ("summaries", "faults"),
    [
        ([{}], []),
        ([{}, {}], []),
        ([{}, {"weights": []}], []),
        ([{"weights": []}, {"weights": []}], []),
        ([{"weights": [[3.0], [5.0]]}, {}], ["the replicas' parameters were alike at the first step and are not at the last one"]),
        ([{}, {}, {"weights": [[3.0], [9.0], [4.1]]}], ["the replicas' parameters were alike at the first step and are not at the last one"]),
        ([{}, {"weights": [[3.0], [9.0], [4.0]]}], []),
        ([{"weights": [[math.nan]]}, {"weights": [[math.nan]]}], []),
        ([{"weights": [[math.nan], [1.0]]}, {"weights": [[1.0], [2.0]]}], []),
        ([{"weights": [[3.0, 1.0], [5.0]]}, {"weights": [[3.0], [6.0]]}], []),  # they hold different parts
        ([{}, {"clips": []}], ["CLIP406 train.py:1: clips on some ranks only, 1 times on rank 0, 0 times on rank 1"]),
        ([{"clips": []}, {"clips": []}], []),
        ([{"clips": []}, {"weights": [[9.0]]}], ["CLIP406 train.py:1: clips on some ranks only, 0 times on rank 0, 1 times on rank 1"]),
        ([{}, {"clips": [["train.py:1", 1.0, 4.0]]}], ["train.py:1: replicas were clipped unlike in 1 calls: first norm 2 and coefficient 0.5 on rank 0, norm 4 and coefficient 0.25 on rank 1"]),
        ([{}, {"clips": [["train.py:1", 1.0, 0.5]]}], ["train.py:1: replicas were clipped unlike in 1 calls: first norm 2 and coefficient 0.5 on rank 0, norm 0.5 and coefficient 1 on rank 1"]),
        ([{}, {"clips": [["train.py:1", 1.0, None]]}], []),  # a part, or a norm that is not known
        ([{"clips": [["train.py:1", 1.0, math.nan]]}, {"clips": [["train.py:1", 1.0, math.nan]]}], []),
        ([{}, {}, {"clips": [["train.py:1", 1.0, 4.0]]}], ["train.py:1: replicas were clipped unlike in 1 calls: first norm 2 and coefficient 0.5 on rank 0, norm 2 and coefficient 0.5 on rank 1, norm 4 and coefficient 0.25 on rank 2"]),
        ([{}, {"clips": [["train.py:1", 1.0, 2.0], ["train.py:2", 1.0, 2.0]]}], ["CLIP406 train.py:2: clips on some ranks only, 0 times on rank 0, 1 times on rank 1"]),
    ],
)  # fmt: skip
def test_what_differs_between_ranks_and_must_not(summaries: list[dict[str, Any]], faults: list[str]) -> None:
    assert ranks.faults({number: summary(**changes) for number, changes in enumerate(summaries)}) == faults


def test_calls_are_compared_in_their_order() -> None:
    one = [["train.py:1", 1.0, norm] for norm in (2.0, 3.0, 4.0)]
    other = [["train.py:1", 1.0, norm] for norm in (2.0, 4.0, 5.0)]
    (fault,) = ranks.faults({0: summary(clips=one), 1: summary(clips=other)})
    assert fault.startswith(
        "train.py:1: replicas were clipped unlike in 2 calls: first norm 3 and coefficient 0.3333 on"
    )


def test_norms_that_ranks_have_told() -> None:
    part = clip(3.0, parts=2)
    assert ranks.joined(log(part), {0: {"parts": [3.0]}, 1: {"parts": [None]}}).events == [part._replace(parts=1)]
    assert ranks.joined(log(part), {0: {"parts": [None]}, 1: {"parts": [None]}}).events[0].norm is None
    assert ranks.joined(log(part), {}).events == [part]
    assert ranks.joined(log(part._replace(parts=0)), {0: {"parts": [3.0]}, 1: {"parts": [4.0]}}).events[0].norm == 3.0
