"""The audit under torchrun: two processes over gloo, whose clips are compared."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import PROJECT

torch = pytest.importorskip("torch")

from clipcheck.audit import gradients, ranks  # noqa: E402
from clipcheck.audit.log import Log  # noqa: E402

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
