"""The benchmark: every peer does the same work, the workloads are the models they are named after, the rows add up."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from conftest import runner

torch = pytest.importorskip("torch")

from clipcheck.bench import cli, measure, peers, report, workloads  # noqa: E402
from clipcheck.bench.cli import bench  # noqa: E402
from clipcheck.bench.measure import Timing  # noqa: E402
from clipcheck.bench.run import Row  # noqa: E402

CPU = torch.device("cpu")


def parameters() -> list[torch.Tensor]:
    """Three parameters whose gradients have norms 3, 4 and 12, so 13 together, and one without a gradient."""
    params = [torch.zeros(n, requires_grad=True) for n in (1, 2, 4, 3)]
    for param, norm in zip(params, (3.0, 4.0, 12.0), strict=False):
        param.grad = torch.full_like(param, norm / param.numel() ** 0.5)
    return params


@pytest.mark.parametrize("name", peers.NORMS)
def test_each_peer_measures_the_same_norm(name: str) -> None:
    grads = [p.grad for p in parameters() if p.grad is not None]
    assert float(peers.NORMS[name](grads)) == pytest.approx(13.0, rel=1e-6)


@pytest.mark.parametrize("name", peers.CLIPS)
@pytest.mark.parametrize(("max_norm", "after"), [(6.5, 6.5), (13.0, 13.0), (100.0, 13.0)])
def test_each_peer_clips_to_the_same_gradients(name: str, max_norm: float, after: float) -> None:
    params = parameters()
    assert float(peers.CLIPS[name](params, max_norm)) == pytest.approx(13.0, rel=1e-6)
    norms = [p.grad.norm().item() for p in params[:3]]
    assert norms == pytest.approx([n * after / 13 for n in (3.0, 4.0, 12.0)], rel=1e-5)
    assert params[3].grad is None


@pytest.mark.parametrize(
    ("name", "tensors", "elements", "size"),
    [
        ("10x1M", 10, 10_000_000, 4),
        ("resnet50", 161, 25_557_032, 4),  # torchvision's resnet50
        ("gpt2", 148, 124_439_808, 4),  # Hugging Face's gpt2
        ("gpt2-bf16", 148, 124_439_808, 2),
        ("gpt2-xl", 580, 1_557_611_200, 4),  # and gpt2-xl
        ("2000x64", 2000, 128_000, 4),
        ("1x100M", 1, 100_000_000, 4),
        ("7b-bf16", 291, 6_738_415_616, 2),  # LLaMA 7B
    ],
)
def test_a_workload_is_the_model_that_it_is_named_after(name: str, tensors: int, elements: int, size: int) -> None:
    load = workloads.workload(name)
    assert (len(load.shapes), load.elements, load.bytes) == (tensors, elements, elements * size)
    assert name in workloads.names()


def test_the_gradients_of_a_workload_are_the_same_each_time() -> None:
    load = workloads.Workload("small", ((200, 300), (7,)), torch.float32)
    first, second = load.gradients(CPU), load.gradients(CPU)
    assert [g.shape for g in first] == [(200, 300), (7,)]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert first[0].std().item() == pytest.approx(1e-3, rel=0.02)
    assert workloads.fits(load, CPU)
    assert not workloads.fits(workloads.Workload("huge", ((1 << 50,),), torch.float32), CPU)


@pytest.mark.parametrize(("free", "expected"), [(2400, False), (2401, True)])
def test_a_workload_fits_if_a_copy_and_a_fifth_fit_as_well(
    free: int, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workloads, "_free_memory", lambda: free)
    assert workloads.fits(workloads.Workload("1000 bytes", ((250,),), torch.float32), CPU) is expected


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not say how much memory is free")
def test_the_free_memory_is_what_the_system_says() -> None:
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    assert workloads._free_memory() == pytest.approx(available, rel=0.2)


def test_the_exact_norm_is_that_of_float64() -> None:
    grads = [torch.full((1000,), 1e-30), torch.full((10, 10), 2e-30)]
    assert measure.exact_norm(grads) == pytest.approx((1000 * 1e-60 + 100 * 4e-60) ** 0.5, rel=1e-6)


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    slow, fast = Timing([2.0, 20.0, 6.0], None), Timing([1.0, 2.0, 2.0], None)
    assert slow.wall == 6.0
    assert slow.ratio(fast) == 3.0
    assert fast.ratio(fast) == 1.0


def test_calls_are_timed_in_turns_after_a_reset() -> None:
    log: list[str] = []
    calls = {"a": lambda: log.append("a"), "b": lambda: log.append("b")}
    timings = measure.interleaved(calls, CPU, lambda: log.append("reset"), 2)
    assert log == ["reset", "a", "reset", "b"] * 3  # once to warm up
    assert {name: (len(t.walls), t.device) for name, t in timings.items()} == {"a": (2, None), "b": (2, None)}
    assert all(wall >= 0 for t in timings.values() for wall in t.walls)


ROWS = [
    Row("gpt2", "clip", "torch", 12.3456, None, 1.0, 1.234e-7, 0.5),
    Row("gpt2", "clip", "clipcheck", 1.5, 0.25, 0.1216, None, 0.5),
]


def test_the_table_is_aligned_and_leaves_unknown_figures_out() -> None:
    assert report.table(ROWS).splitlines() == [
        "workload  case             wall ms  device ms  to torch  error  floor ms",
        "gpt2      clip  torch       12.346                 1.00  1e-07     0.500",
        "gpt2      clip  clipcheck    1.500      0.250      0.12            0.500",
    ]


def test_json_has_the_machine_and_the_rows() -> None:
    content = json.loads(report.as_json({"device": "x"}, ROWS))
    assert content["machine"] == {"device": "x"}
    assert content["rows"][1]["peer"] == "clipcheck"
    assert content["rows"][1]["device_ms"] == 0.25


@pytest.mark.parametrize(("command", "cases"), [("clip", {"no clip", "clip"}), ("norm", {"norm"})])
def test_a_run_has_a_row_for_each_peer_and_case(tmp_path: Path, command: str, cases: set[str]) -> None:
    file = tmp_path / "rows.json"
    words = [command, "--workload", "2000x64", "--rounds", "1", "--device", "cpu", "--json", str(file)]
    result = runner().invoke(bench(), words)
    assert result.exit_code == 0, result.output
    content = json.loads(file.read_text(encoding="utf-8"))
    known = peers.NORMS if command == "norm" else peers.CLIPS
    assert {(row["case"], row["peer"]) for row in content["rows"]} == {(case, peer) for case in cases for peer in known}
    for row in content["rows"]:
        assert row["workload"] == "2000x64"
        assert row["error"] < 1e-5
        assert row["wall_ms"] > 0
        assert row["floor_ms"] > 0
        assert row["peer"] != "torch" or row["ratio"] == 1.0
    floors = {row["case"]: row["floor_ms"] for row in content["rows"]}
    assert command == "norm" or floors["clip"] == pytest.approx(3 * floors["no clip"])
    assert {"device", "threads", "torch", "python", "date", "bandwidth_GB_s"} <= content["machine"].keys()
    assert "2000x64" in result.stdout


@pytest.mark.parametrize(
    "words",
    [
        ["clip", "--device", "nowhere"],
        ["clip", "--workload", "unknown"],
        ["norm", "--rounds", "0"],
        ["norm", "--plot", "x.pdf", "--workload", "2000x64"],
    ],
)
def test_what_cannot_be_measured_is_one_clear_error(words: list[str]) -> None:
    result = runner().invoke(bench(), words)
    assert result.exit_code == 2
    assert "Traceback" not in result.output


@pytest.fixture
def threads() -> Iterator[int]:
    """A number of threads that torch has not, and its own afterwards."""
    before = torch.get_num_threads()
    yield before + 1
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    "words", [["norm", "--workload", "6x64x64", "--rounds", "1"], ["step", "--model", "ppo-policy", "--rounds", "1"]]
)
def test_the_number_of_threads_is_set_and_told(words: list[str], threads: int) -> None:
    result = runner().invoke(bench(), [*words, "--device", "cpu", "--threads", str(threads)])
    assert result.exit_code == 0, result.output
    assert f"threads {threads}," in result.stdout


def test_a_column_without_figures_is_left_out() -> None:
    on_cpu = [row._replace(device_ms=None) for row in ROWS]
    assert report.table(on_cpu).splitlines()[0] == "workload  case             wall ms  to torch  error  floor ms"


@pytest.mark.parametrize(("load", "cores", "warned"), [(0.4, 2, False), (1.1, 2, True), (3.0, 8, False)])
def test_a_busy_machine_is_told(
    load: float, cores: int, warned: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli.os, "getloadavg", lambda: (load, 0.0, 0.0), raising=False)
    monkeypatch.setattr(cli.os, "cpu_count", lambda: cores)
    cli._warn_of_load()
    told = capsys.readouterr().err
    assert (f"this machine is busy (load {load} on {cores} cores)" in told) is warned


def test_bench_alone_prints_its_help() -> None:
    from clipcheck.cli.main import main

    result = runner().invoke(main, ["bench"])
    assert result.exit_code == 0
    for command in ("clip", "norm", "step", "beliefs"):
        assert f"  {command} " in result.stdout


def test_a_plot_names_its_axes_and_is_drawn_for_light_pages_and_for_dark_ones(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from clipcheck.bench import plot

    machine = {"device": "a CPU", "torch": "2.13", "date": "today"}
    rows = [Row(f"load {n}", case, peer, 1.0, None, 0.5, None, 0.1) for n in range(6) for case in ("no clip", "clip")
            for peer in ("torch", "clipcheck", "a loop")]  # fmt: skip
    light, dark = plot.draw(machine, rows, tmp_path / "plot.svg")
    assert (light.name, dark.name) == ("plot.svg", "plot-dark.svg")
    for file, background in ((light, "#ffffff"), (dark, "#1e2129")):
        drawn = file.read_text(encoding="utf-8")
        assert background in drawn
        assert drawn.count(">torch<") == 1  # the line that the others are measured by, and no bar
        for text in (
            "time relative to torch",
            "gradients and case",
            "load 5, clip",
            "a CPU, torch 2.13, today",
            "a loop",
        ):
            assert f">{text}" in drawn
        assert apart(drawn, [f"load {n}, {case}" for n in range(6) for case in ("no clip", "clip")])


def test_the_bars_of_a_case_are_side_by_side_around_its_label(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    from matplotlib.axes import Axes

    from clipcheck.bench import plot

    drawn: list[tuple[list[float], list[float], float]] = []
    real = Axes.barh

    def noted(axes: Axes, at: list[float], lengths: list[float], height: float, **how: Any) -> object:
        drawn.append((at, lengths, height))
        return real(axes, at, lengths, height, **how)

    monkeypatch.setattr(Axes, "barh", noted)
    rows = [
        Row("load", case, peer, 1.0, None, ratio, None, 0.1)
        for case in ("no clip", "clip")
        for peer, ratio in (("torch", 1.0), ("clipcheck", 0.5), ("a loop", 3.0))
        if (case, peer) != ("clip", "a loop")
    ]
    plot.draw({"device": "a CPU", "torch": "2.13", "date": "today"}, rows, tmp_path / "plot.svg")
    (first, lengths, height), (second, other_lengths, _) = drawn[:2]
    assert (lengths, other_lengths) == ([-0.5, -0.5], [2.0, 0.0])  # from torch's time on; one was not measured
    for number in (0, 1):
        assert second[number] - first[number] == pytest.approx(height)
        assert (first[number] + second[number]) / 2 == pytest.approx(number)
    assert 2 * height < 1


def apart(drawn: str, labels: list[str]) -> bool:
    """Whether the baselines of labels are more than a line's height from each other."""
    heights = sorted(
        float(found[1])
        for label in labels
        if (found := re.search(rf'<text[^>]*y="([\d.]+)"[^>]*>{label}<', drawn)) is not None
    )
    assert len(heights) == len(labels)
    return all(lower - upper > 8 for upper, lower in pairwise(heights))
