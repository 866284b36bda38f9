"""The commands of the benchmark: what they reject, and that each measures every peer against the same norm."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import torch.distributed as dist  # noqa: E402
from conftest import PROJECT  # noqa: E402

from clipcheck.bench import models, steps  # noqa: E402


def bench(*words: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *launcher, "-m", "clipcheck", "bench", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=PROJECT, env=environment, timeout=300)


def test_sharded_gradients_are_measured_under_torchrun_only() -> None:
    done = bench("clip", "--sharded", "--device", "cpu")
    assert done.returncode == 2
    assert "torchrun --nproc-per-node 2 -m clipcheck bench clip --sharded" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32" or not dist.is_available(), reason="torch has no process groups here")
def test_sharded_gradients_in_two_processes(tmp_path: Path) -> None:
    pytest.importorskip("torch.distributed.tensor")
    file = tmp_path / "rows.json"
    words = ("clip", "--sharded", "--device", "cpu", "--workload", "6x64x64", "--rounds", "1", "--json", str(file))
    done = bench(*words, launcher=("-m", "torch.distributed.run", "--nproc-per-node", "2"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("workload") == 1  # one process tells it
    measured = json.loads(file.read_text(encoding="utf-8"))
    assert measured["machine"]["processes"] == 2
    assert {(row["workload"], row["case"], row["peer"]) for row in measured["rows"]} == {
        (f"6x64x64, {layout}", case, peer)
        for layout in ("FSDP2", "HSDP", "TP")
        for case in ("no clip", "clip")
        for peer in ("clipcheck", "torch")
    }
    assert max(row["error"] for row in measured["rows"]) < 1e-6  # both know the norm of the whole gradients


def test_the_models_have_as_many_parameters_as_those_they_represent() -> None:
    with torch.device("meta"):
        resnet, gpt = models.resnet50(), models.GPT(12, 768)
    assert (len([*resnet.parameters()]), sum(p.numel() for p in resnet.parameters())) == (161, 25_557_032)
    assert (len([*gpt.parameters()]), sum(p.numel() for p in gpt.parameters())) == (148, 124_439_808)


def test_a_step_with_each_clip() -> None:
    found = list(steps.steps("ppo-policy", torch.device("cpu"), rounds=2))
    assert [step.clip for step in found] == ["no clip", "torch", "clipcheck", "norm(2).item()**2 loop"]
    assert found[0].added == 0
    assert min(step.wall_ms for step in found) > 0
    assert [line.endswith("%") for line in map(steps.line, found)] == [False, True, True, True]


@pytest.mark.skipif(sys.platform == "win32" or not dist.is_available(), reason="torch has no process groups here")
def test_steps_of_a_sharded_model_in_two_processes() -> None:
    if not hasattr(torch.cpu.current_stream(), "record_event"):
        pytest.skip("FSDP2 works on the CPU from torch 2.7 on")
    words = ("step", "--sharded", "--device", "cpu", "--model", "ppo-policy", "--rounds", "1")
    done = bench(*words, launcher=("-m", "torch.distributed.run", "--nproc-per-node", "2"))
    assert done.returncode == 0, done.stderr
    assert "processes 2" in done.stdout
    assert done.stdout.count("ppo-policy") == 3  # without a clip, torch's, ours; told by one process
    assert "loop" not in done.stdout
