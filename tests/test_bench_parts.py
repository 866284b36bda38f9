"""The benchmark: every peer does the same work, the workloads are the models they are named after, the rows add up."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import importlib.util
import io
import json
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from conftest import runner

torch = pytest.importorskip("torch")

from clipcheck.bench import beliefs, cli, measure, peers, report, run, workloads  # noqa: E402
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
def test_the_number_of_threads_is_set_and_reported(words: list[str], threads: int) -> None:
    result = runner().invoke(bench(), [*words, "--device", "cpu", "--threads", str(threads)])
    assert result.exit_code == 0, result.output
    assert f"threads {threads}," in result.stdout


def test_a_column_without_figures_is_left_out() -> None:
    on_cpu = [row._replace(device_ms=None) for row in ROWS]
    assert report.table(on_cpu).splitlines()[0] == "workload  case             wall ms  to torch  error  floor ms"


@pytest.mark.parametrize(("load", "cores", "warned"), [(0.4, 2, False), (1.1, 2, True), (3.0, 8, False)])
def test_a_busy_machine_is_reported(
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


# --- the commands ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that nothing keeps busy and whose bandwidth needs no measuring."""
    monkeypatch.setattr(measure, "bandwidth", lambda device: 12.4e9)
    monkeypatch.setattr(cli, "_warn_of_load", lambda: None)


def test_workloads_that_are_too_large_are_named(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workloads, "_free_memory", lambda: 1_000_000)
    words = ["norm", "--device", "cpu", "--rounds", "1", "--workload", "gpt2", "--workload", "6x64x64", "--workload", "10x1M"]  # fmt: skip
    result = runner().invoke(bench(), words)
    assert result.exit_code == 0, result.output
    assert "skipped, too large for the memory: 10x1M, gpt2\n" in result.stderr
    assert "bandwidth_GB_s 12\n" in result.stdout
    assert "6x64x64" in result.stdout and "gpt2" not in result.stdout


def test_nothing_is_said_of_what_was_not_skipped(quick: None) -> None:
    result = runner().invoke(bench(), ["norm", "--device", "cpu", "--rounds", "1", "--workload", "6x64x64"])
    assert "skipped" not in result.stderr


def test_all_workloads_are_measured_unless_some_are_named(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {name: (lambda name=name: iter([(len(name),)]), torch.float32) for name in ("one", "other")}
    monkeypatch.setattr(workloads, "_WORKLOADS", small)
    result = runner().invoke(bench(), ["norm", "--device", "cpu", "--rounds", "1"])
    assert result.exit_code == 0, result.output
    assert {line.split()[0] for line in result.stdout.splitlines()[2:]} == {"one", "other"}
    assert "skipped" not in result.stderr


def test_all_models_are_trained_unless_some_are_named(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from clipcheck.bench import steps

    asked: list[tuple[str, int, bool]] = []

    def trained(name: str, device: torch.device, rounds: int, is_sharded: bool) -> list[steps.Step]:
        asked.append((name, rounds, is_sharded))
        return [steps.Step(name, 2, "no clip", 1.0, 0.0), steps.Step(name, 2, "torch", 2.0, 1.0)]

    monkeypatch.setattr(steps, "steps", trained)
    result = runner().invoke(bench(), ["step", "--device", "cpu"])
    assert asked == [(name, 31, False) for name in ("ppo-policy", "resnet50", "gpt2", "deep-narrow-gpt")]
    machine, header, *lines = result.stdout.splitlines()
    assert machine.startswith("device ") and f"torch {torch.__version__}" in machine
    assert header == steps.HEADER
    assert lines[:2] == [*map(steps.line, trained("ppo-policy", CPU, 31, False))]


def test_a_busy_machine_is_told_before_anything_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "bandwidth", lambda device: 1e9)
    monkeypatch.setattr(cli.os, "getloadavg", lambda: (99.0, 0.0, 0.0), raising=False)
    for words in (["norm", "--workload", "6x64x64"], ["step", "--model", "ppo-policy"]):
        result = runner().invoke(bench(), [*words, "--device", "cpu", "--rounds", "1"])
        assert result.stderr.startswith("warning: this machine is busy (load 99.0 on ")


def test_the_rows_are_drawn_where_that_is_asked_for(quick: None, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    file = tmp_path / "plot.svg"
    words = ["norm", "--device", "cpu", "--rounds", "1", "--workload", "6x64x64", "--plot", str(file)]
    result = runner().invoke(bench(), words)
    assert result.exit_code == 0, result.output
    assert f"wrote {file} and {tmp_path / 'plot-dark.svg'}" in result.stdout
    assert file.exists()


@pytest.mark.parametrize(("suffix", "wrong"), [(".svg", False), (".png", False), (".pdf", True), ("", True)])
def test_a_plot_is_an_svg_or_a_png(suffix: str, wrong: bool) -> None:
    pytest.importorskip("matplotlib")
    if wrong:
        with pytest.raises(click.BadParameter, match=r"must end in \.svg or \.png") as raised:
            cli._check_plot(Path(f"plot{suffix}"))
        assert raised.value.param_hint == "--plot"
    else:
        cli._check_plot(Path(f"plot{suffix}"))


def test_a_plot_needs_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(click.UsageError, match=r"clipcheck\[bench\]"):
        cli._check_plot(Path("plot.svg"))


def test_beliefs_are_told_as_true_or_false(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [beliefs.Belief("one", "seen", True), beliefs.Belief("other", "not seen", False)]
    monkeypatch.setattr(beliefs, "all_beliefs", lambda device: found)
    result = runner().invoke(bench(), ["beliefs", "--device", "cpu"])
    machine, *lines = result.stdout.splitlines()
    assert machine == f"{measure.machine(CPU)['device']}, torch {torch.__version__}"
    assert lines == ["true   one", "       seen", "FALSE  other", "       not seen"]


def test_compiled_is_one_more_peer(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "compiled", lambda: peers.CLIPS["torch"])
    words = ["clip", "--device", "cpu", "--rounds", "1", "--workload", "6x64x64"]
    with_it, without = (runner().invoke(bench(), [*words, *more]).stdout for more in (["--compiled"], []))
    assert with_it.count("torch, compiled") == 2
    assert "compiled" not in without


def test_a_device_that_is_not_there_is_told_in_one_line() -> None:
    result = runner().invoke(bench(), ["norm", "--device", "nowhere"])
    assert result.exit_code == 2
    assert "`nowhere` cannot be used here: " in result.stderr


@pytest.mark.parametrize(("there", "expected"), [(True, "cuda"), (False, "cpu")])
def test_the_gpu_is_used_where_there_is_one(there: bool, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert cli._device(click.Context(bench()), click.Option(["--device"]), None).type == expected


def test_the_workload_that_is_measured_is_shown() -> None:
    assert cli._name(workloads.workload("6x64x64")) == "6x64x64"
    assert cli._name(None) is None
    bar: Any = cli._progress([workloads.workload("6x64x64")])
    assert (bar.label, bar.length, bar.file, bar.item_show_func) == ("measuring", 1, sys.stderr, cli._name)


def test_what_is_not_known_of_a_machine_is_not_told() -> None:
    assert (
        cli._in_one_line({"device": "a CPU", "load": 0.0, "triton": None, "threads": 2})
        == "device a CPU, load 0.0, threads 2"
    )


def test_windows_has_no_load(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delattr(cli.os, "getloadavg", raising=False)
    cli._warn_of_load()
    assert capsys.readouterr().err == ""
    assert measure.machine(CPU)["load"] is None


# --- measuring ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gradients", "asked", "rounds"),
    [(1 << 30, None, 61), ((1 << 30) + 4, None, 15), ((1 << 30) + 4, 3, 3), (4, 100, 100)],
)
def test_large_gradients_are_measured_in_fewer_rounds(gradients: int, asked: int | None, rounds: int) -> None:
    load = workloads.Workload("", ((gradients // 4,),), torch.float32)
    assert run.rounds_of(load, run.Options(CPU, asked)) == rounds


def test_the_floor_is_what_must_move_over_the_bandwidth(monkeypatch: pytest.MonkeyPatch) -> None:
    load = workloads.Workload("small", ((250,),), torch.float32)  # 1000 bytes
    rows = [*run.norm(load, run.Options(CPU, 1), 1e6), *run.clip(load, run.Options(CPU, 1), 1e6)]
    assert {row.case: row.floor_ms for row in rows} == {"norm": 1.0, "no clip": 1.0, "clip": 3.0}


def test_each_call_has_gradients_that_no_other_has_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def clip(params: list[torch.Tensor], max_norm: float) -> torch.Tensor:
        before = measure.exact_norm([p.grad for p in params if p.grad is not None])
        seen.append(max_norm / before)
        return torch.nn.utils.clip_grad_norm_(params, max_norm)

    monkeypatch.setattr(peers, "CLIPS", {"torch": clip})
    list(run.clip(workloads.workload("6x64x64"), run.Options(CPU, 2), 1e9))
    assert seen == pytest.approx([10.0] * 4 + [0.5] * 4, rel=1e-4)


def test_a_peer_that_returns_no_norm_has_no_error() -> None:
    log: list[str] = []
    assert run._error(lambda: None, 2.0, lambda: log.append("reset")) is None
    assert run._error(lambda: 3.0, 2.0, lambda: log.append("reset")) == 0.5
    assert run._error(lambda: torch.tensor(1.0), 2.0, lambda: log.append("reset")) == 0.5
    assert log == ["reset"] * 3


def test_the_machine_is_described() -> None:
    found = measure.machine(CPU)
    assert [*found] == ["device", "threads", "load", "torch", "triton", "python", "system", "date"]
    assert found["threads"] == torch.get_num_threads()
    assert found["python"] == platform.python_version()
    assert found["system"] == platform.system()
    assert found["date"] == datetime.date.today().isoformat()
    assert found["triton"] == (importlib.metadata.version("triton") if importlib.util.find_spec("triton") else None)


def test_a_processor_is_named_by_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "processor : 0\nmodel : 85\nmodel name : A Processor @ 2 GHz\nmodel name : another\n"
    monkeypatch.setattr(measure, "open", lambda *_, **__: io.StringIO(lines), raising=False)
    assert measure._processor() == "A Processor @ 2 GHz"
    monkeypatch.setattr(measure, "open", lambda *_, **__: io.StringIO("processor : 0\n"), raising=False)
    monkeypatch.setattr(measure.platform, "processor", lambda: "arm")
    assert measure._processor() == "arm"
    monkeypatch.setattr(measure.platform, "processor", lambda: "")
    monkeypatch.setattr(measure.platform, "machine", lambda: "arm64")
    assert measure._processor() == "arm64"


def test_without_triton_its_version_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    assert measure._triton_version() is None


def test_the_memory_of_another_system_is_that_of_a_laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError

    monkeypatch.setattr(workloads, "open", missing, raising=False)
    assert workloads._free_memory() == 8 << 30


def test_a_wall_time_is_in_milliseconds() -> None:
    assert 20 <= measure._wall(lambda: time.sleep(0.02), CPU) < 2000


def test_the_bandwidth_counts_what_is_read_and_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    walls = iter([9.0, 4.0, 8.0, 7.0, 6.0, 5.0])  # milliseconds
    copied: list[object] = []

    def wall(call: measure.Call, device: torch.device) -> float:
        copied.append(call())
        return next(walls)

    monkeypatch.setattr(measure, "_wall", wall)
    assert measure.bandwidth(CPU) == 2 * (4 << 25) / 4e-3
    assert all(isinstance(copy, torch.Tensor) and copy.numel() == 1 << 25 for copy in copied)


def test_a_large_gradient_is_summed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    split = torch.split

    def noted(tensor: torch.Tensor, size: int) -> Any:
        sizes.append(size)
        return split(tensor, 4)

    monkeypatch.setattr(torch, "split", noted)
    assert measure.exact_norm([torch.ones(3, 3), torch.ones(7)]) == 4.0
    assert sizes == [1 << 26] * 2


# --- beliefs --------------------------------------------------------------------------------------------------------------


def test_what_two_documents_claim_is_judged_by_what_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    param = torch.zeros(2, requires_grad=True)
    for gradient, returned, alone, clipped in (([3.0, 4.0], 5.0, True, False), ([0.6, 0.8], 1.0, False, True)):
        param.grad = torch.tensor(gradient)
        monkeypatch.setattr(beliefs, "_clipped_by_the_old_name", lambda device, returned=returned: (param, returned))
        assert beliefs.leaves_gradients_alone(CPU).holds is alone
        assert beliefs.returns_the_clipped_norm(CPU).holds is clipped
    assert beliefs.leaves_gradients_alone(CPU).seen == "their norm went from 5 to 1"
    assert beliefs.returns_the_clipped_norm(CPU).seen == "it returned 1, the norm before clipping"


@pytest.mark.parametrize(
    ("norms", "squares", "seen", "holds"),
    [
        (6.0, 4.0, "it was 1.50 times as fast", True),
        (6.0, 5.0, "it was 1.20 times as fast", True),
        (5.5, 5.0, "it was 1.10 times as fast", False),
        (2.0, 4.0, "it took 2.00 times as long", False),
        (2.0, 2.0, "it was 1.00 times as fast", False),
    ],
)
def test_how_fast_squares_are(
    norms: float, squares: float, seen: str, holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def timed(calls: Any, device: Any, reset: Any, rounds: int) -> dict[str, Timing]:
        asked.append(([round(call()) for call in calls.values()], device, reset(), rounds))
        return {"norm": Timing([norms], None), "squares": Timing([squares], None)}

    monkeypatch.setattr(measure, "interleaved", timed)
    monkeypatch.setattr(beliefs, "_gradients", lambda device: [torch.tensor([3.0]), torch.tensor([4.0])])
    belief = beliefs.squares_are_faster(CPU)
    assert (belief.seen, belief.holds) == (f"{seen} (10 × 1000 × 1000)", holds)
    assert asked == [([5, 5], CPU, None, 51)]


@pytest.mark.parametrize(
    ("errors", "holds"),
    [
        ({"norm": 4e-7, "squares": 1e-7, "rooted": 4e-7}, True),
        ({"norm": 4e-7, "squares": 1e-7, "rooted": 1e-7}, False),  # the root costs nothing
        ({"norm": 4e-7, "squares": 1e-7, "rooted": 2e-7}, False),
        ({"norm": 1e-7, "squares": 1e-7, "rooted": 4e-7}, False),
    ],
)
def test_a_root_that_is_saved_would_have_to_be_what_costs_digits(
    errors: dict[str, float], holds: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(beliefs, "errors_of_the_norm", lambda grads: errors)
    monkeypatch.setattr(beliefs, "_gradients", lambda device: [])
    belief = beliefs.squares_are_more_exact(CPU)
    assert belief.holds is holds
    assert belief.seen.startswith("error 4e-07 with" if errors["norm"] > 1e-7 else "error 1e-07 with")


def test_the_gradients_of_the_claims() -> None:
    grads = beliefs._gradients(CPU)
    assert [tuple(grad.shape) for grad in grads] == [(1000, 1000)] * 10
    assert not torch.equal(grads[0], grads[1])
    assert torch.equal(grads[0], beliefs._gradients(CPU)[0])
    param, returned = beliefs._clipped_by_the_old_name(CPU)
    assert returned == 5.0
    torch.testing.assert_close(param.grad, torch.tensor([0.6, 0.8]), rtol=1e-5, atol=0)


def test_every_claim_is_tested(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beliefs, "_gradients", lambda device: [torch.tensor([3.0, 1.0]), torch.tensor([4.0])])
    found = beliefs.all_beliefs(CPU)
    claims = ("unchanged", "norm of the clipped gradients", "1.25 times faster", "a root is saved", "without a root")
    assert [claim in belief.claim for claim, belief in zip(claims, found, strict=True)] == [True] * 5
    assert [belief.holds for belief in found if "faster" not in belief.claim and "saved" not in belief.claim] == [
        False
    ] * 3


def test_what_torch_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beliefs, "_gradients", lambda device: [torch.tensor([3.0]), torch.tensor([4.0])])
    seen = "it called `torch._foreach_norm` {} time(s), then took the norm of the norms"
    belief = beliefs.torch_sums_squares(CPU)
    assert (belief.seen, belief.holds) == (seen.format(1), False)
    limits: list[float] = []
    monkeypatch.setattr(torch.nn.utils, "clip_grad_norm_", lambda params, limit: limits.append(limit))
    belief = beliefs.torch_sums_squares(CPU)
    assert (belief.seen, belief.holds) == (seen.format(0), True)
    assert limits == [1e9]  # so that nothing is clipped


def test_the_errors_of_three_loops() -> None:
    grads = [torch.tensor([3.0, 4.0]), torch.tensor([12.0])]
    assert beliefs.errors_of_the_norm(grads) == pytest.approx({"norm": 0, "squares": 0, "rooted": 0}, abs=1e-6)
    uneven = [torch.full((1000,), 0.1), torch.full((999,), 0.3)]
    errors = beliefs.errors_of_the_norm(uneven)
    assert [*errors] == ["norm", "squares", "rooted"]
    assert all(0 <= error < 1e-5 for error in errors.values())


def test_a_small_workload_is_what_its_name_says() -> None:
    assert workloads.workload("6x64x64").shapes == ((64, 64),) * 6
    assert workloads.workload("2000x64").shapes == ((64,),) * 2000
    assert workloads.workload("1x100M").shapes == ((100_000_000,),)
    with pytest.raises(KeyError):
        workloads.workload("another")
    assert set(workloads.SHARDED) <= set(workloads.names())


def test_the_skipped_among_all_workloads_are_named(quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    large = {
        name: (lambda size=size: iter([(size,)]), torch.float32) for name, size in (("small", 4), ("huge", 1 << 50))
    }
    monkeypatch.setattr(workloads, "_WORKLOADS", large)
    result = runner().invoke(bench(), ["norm", "--device", "cpu", "--rounds", "1"])
    assert result.exit_code == 0, result.output
    assert "skipped, too large for the memory: huge\n" in result.stderr


# --- on a GPU, as far as it is asked ----------------------------------------------------------------------------------------

GPU = torch.device("cuda:1")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is done with a GPU."""
    log: list[Any] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            log.append(self)

        def elapsed_time(self, other: Any) -> float:
            assert [self, other] == [one for one in log if isinstance(one, Event)]  # in the order of the records
            return 2.5

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *device: log.append(("wait", *device)))
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: log.append("sleep"))
    return log


def test_the_time_of_a_device_is_measured_while_the_host_is_ahead(gpu: list[Any]) -> None:
    assert measure._device(lambda: gpu.append("call")) == 2.5
    kinds = [one if isinstance(one, (str, tuple)) else "record" for one in gpu]
    assert kinds == [("wait",), "sleep", "record", "call", "record", ("wait",)]


def test_a_wall_time_on_a_gpu_is_until_it_is_done(gpu: list[Any]) -> None:
    measure._wall(lambda: gpu.append("call"), GPU)
    assert gpu == [("wait", GPU), "call", ("wait", GPU)]
    measure._wall(lambda: None, CPU)
    assert len(gpu) == 3


@pytest.mark.parametrize("only_wall", [False, True])
def test_on_a_gpu_both_times_are_measured_unless_one_is_enough(
    only_wall: bool, gpu: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    log: list[str] = []
    times = iter([1.0, 4.0, 2.0])
    monkeypatch.setattr(measure, "_device", lambda call: (call(), next(times))[1])
    found = measure.interleaved({"a": lambda: log.append("a")}, GPU, lambda: log.append("reset"), 3, only_wall)
    assert log == ["reset", "a"] * (4 if only_wall else 7)
    assert (found["a"].device, len(found["a"].walls)) == (None if only_wall else 2.0, 3)


def test_the_bandwidth_of_a_gpu_takes_a_larger_copy(gpu: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    buffer: Any = type("Buffer", (), {"nbytes": 1000, "copy_": lambda self, source: None})
    monkeypatch.setattr(torch, "ones", lambda size, device: made.append((size, device)) or buffer())
    monkeypatch.setattr(torch, "ones_like", lambda source: buffer())
    monkeypatch.setattr(measure, "_wall", lambda call, device: 4.0)
    assert measure.bandwidth(GPU) == 2 * 1000 / 4e-3
    assert made == [(1 << 28, GPU)]


@pytest.mark.parametrize(("free", "expected"), [(2400, False), (2401, True)])
def test_a_workload_fits_into_what_is_free_on_a_gpu(free: int, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 1 << 40) if device == GPU else (0, 0))
    monkeypatch.setattr(workloads, "_free_memory", lambda: 1 << 50)
    assert workloads.fits(workloads.Workload("1000 bytes", ((250,),), torch.float32), GPU) is expected


def test_a_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"the name of {device}")
    assert measure.machine(GPU)["device"] == "the name of cuda:1"


def test_a_graph_is_captured_after_one_clip(gpu: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the first call allocates cannot be allocated while a graph is captured."""

    class Graph:
        def replay(self) -> None:
            gpu.append("replay")

    @contextlib.contextmanager
    def capturing(graph: Graph) -> Iterator[None]:
        assert isinstance(graph, Graph)
        gpu.append("capture")
        yield
        gpu.append("captured")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capturing)
    monkeypatch.setattr(peers.runtime, "clip_grad_norm_", lambda params, limit: gpu.append((params, limit)))
    params: list[Any] = ["p"]
    replay = peers.captured(params, 2.0)
    assert gpu == [(params, 2.0), ("wait",), "capture", (params, 2.0), "captured"]
    replay()
    assert gpu[-1] == "replay"


def test_torchs_clip_is_what_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: ("compiled", function))
    assert peers.compiled() == ("compiled", torch.nn.utils.clip_grad_norm_)
