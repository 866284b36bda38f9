"""The commands of `clipcheck bench`; the program mounts the group that `bench()` returns."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import click
import torch

from clipcheck.bench import beliefs as belief_bench
from clipcheck.bench import measure, plot, report, run, steps, workloads
from clipcheck.bench import sharded as sharded_bench
from clipcheck.bench.models import TRAININGS
from clipcheck.bench.run import Options, Row
from clipcheck.bench.workloads import Workload


def bench() -> click.Group:
    """Returns the command group: `clip`, `norm`, `step` and `beliefs`."""
    return _bench


@click.group("bench", context_settings={"help_option_names": ["-h", "--help"]})
def _bench() -> None:
    """Measure the runtime on this machine against torch and hand-written loops."""


def _device(_: click.Context, __: click.Parameter, name: str | None) -> torch.device:
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise click.BadParameter(f"`{name}` cannot be used here: {str(error).splitlines()[0]}") from error
    return device


def _device_option(command: Callable[..., None]) -> Callable[..., None]:
    about = "Where to run: cpu, cuda … [default: cuda if available]"
    return click.option("--device", callback=_device, help=about)(command)


def _options(command: Callable[..., None]) -> Callable[..., None]:
    options: list[Callable[[Callable[..., None]], Callable[..., None]]] = [
        click.option(
            "--workload",
            "names",
            multiple=True,
            type=click.Choice(workloads.names()),
            help="Repeatable. [default: all]",
        ),
        _device_option,
        click.option(
            "--rounds",
            type=click.IntRange(1),
            help="Calls of each function. [default: 61, or 15 for 1 GiB of gradients or more]",
        ),
        click.option("--threads", type=click.IntRange(1), help="Threads of torch on the CPU."),
        click.option(
            "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write the results to a file."
        ),
        click.option(
            "--plot",
            "plot_file",
            type=click.Path(path_type=Path, dir_okay=False),
            help="Draw the results as .svg or .png, and again for dark pages, with `-dark` in the name.",
        ),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@_bench.command("clip", short_help="Time `clip_grad_norm_`.")
@_options
@click.option(
    "--compiled", is_flag=True, help="Time torch.compile as well; its first call takes up to 40 s per workload."
)
@click.option(
    "--sharded", is_flag=True, help="Time sharded gradients, under torchrun: FSDP2, HSDP and tensor parallelism."
)
def _clip(
    names: tuple[str, ...],
    device: torch.device,
    rounds: int | None,
    threads: int | None,
    json_file: Path | None,
    plot_file: Path | None,
    compiled: bool,
    sharded: bool,
) -> None:
    """Time `clip_grad_norm_`, both when nothing is clipped and when something is."""
    if sharded:
        _needs_torchrun("clip")
        with sharded_bench.processes(device) as own:
            names, how = names or workloads.SHARDED, Options(own, rounds)
            _run(sharded_bench.clip, names, how, threads, json_file, plot_file, is_quiet=not sharded_bench.is_first())
        return
    _run(run.clip, names, Options(device, rounds, compiled), threads, json_file, plot_file)


@_bench.command("norm")
@_options
def _norm(
    names: tuple[str, ...],
    device: torch.device,
    rounds: int | None,
    threads: int | None,
    json_file: Path | None,
    plot_file: Path | None,
) -> None:
    """Time the total norm alone."""
    _run(run.norm, names, Options(device, rounds), threads, json_file, plot_file)


@_bench.command("step", short_help="Time whole training steps with different clips.")
@click.option("--model", "names", multiple=True, type=click.Choice([*TRAININGS]), help="Repeatable. [default: all]")
@_device_option
@click.option("--rounds", type=click.IntRange(1), default=31, show_default=True, help="Steps with each clip.")
@click.option("--threads", type=click.IntRange(1), help="Threads of torch on the CPU.")
@click.option("--sharded", is_flag=True, help="Under torchrun: models sharded by FSDP2 (torch 2.6).")
def _step(names: tuple[str, ...], device: torch.device, rounds: int, threads: int | None, sharded: bool) -> None:
    """Time whole training steps: without a clip, with torch's, with clipcheck's, and with a hand-written loop."""
    if threads is not None:
        torch.set_num_threads(threads)
    if sharded:
        _needs_torchrun("step")
    with sharded_bench.processes(device) if sharded else contextlib.nullcontext(device) as own:
        tell = click.echo if sharded_bench.is_first() else _silently
        if sharded_bench.is_first():
            _warn_of_load()
        tell(_in_one_line(measure.machine(own) | sharded_bench.machine()))
        tell(steps.HEADER)
        for name in names or TRAININGS:
            tell("\n".join(map(steps.line, steps.steps(name, own, rounds, sharded))))


@_bench.command("beliefs")
@_device_option
def _beliefs(device: torch.device) -> None:
    """Test what two widely read documents claim about clipping."""
    click.echo(f"{measure.machine(device)['device']}, torch {torch.__version__}")
    for belief in belief_bench.all_beliefs(device):
        click.echo(f"{'true ' if belief.holds else 'FALSE'}  {belief.claim}\n       {belief.seen}")


def _run(
    benchmark: Callable[[Workload, Options, float], Iterator[Row]],
    names: tuple[str, ...],
    options: Options,
    threads: int | None,
    json_file: Path | None,
    plot_file: Path | None,
    is_quiet: bool = False,
) -> None:
    if plot_file is not None:
        _check_plot(plot_file)
    if threads is not None:
        torch.set_num_threads(threads)
    if not is_quiet:
        _warn_of_load()
    machine = measure.machine(options.device) | sharded_bench.machine()
    bytes_a_second = measure.bandwidth(options.device)
    machine["bandwidth_GB_s"] = round(bytes_a_second / 1e9)
    loads = sharded_bench.agreed(run.chosen(names, options.device))
    rows: list[Row] = []
    with contextlib.nullcontext(loads) if is_quiet else _progress(loads) as bar:
        for load in bar:
            rows += benchmark(load, options, bytes_a_second)
    if is_quiet:
        return
    click.echo(_in_one_line(machine))
    skipped = set(names or workloads.names()) - {load.name for load in loads}
    if skipped:
        click.echo(f"skipped, too large for the memory: {', '.join(sorted(skipped))}", err=True)
    click.echo(report.table(rows))
    if json_file is not None:
        json_file.write_text(report.as_json(machine, rows), encoding="utf-8")
    if plot_file is not None:
        click.echo("wrote " + " and ".join(map(str, plot.draw(machine, rows, plot_file))))


def _needs_torchrun(command: str) -> None:
    if not sharded_bench.is_started():
        raise click.UsageError(
            f"`--sharded` runs under torchrun: torchrun --nproc-per-node 2 -m clipcheck bench {command} --sharded"
        )


def _silently(_: str) -> None:
    """What a process says that is not the first."""


def _warn_of_load() -> None:
    """Says if other programs keep the processors busy: times are then longer, and vary."""
    if not hasattr(os, "getloadavg"):  # Windows
        return
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores / 2:
        click.echo(f"warning: this machine is busy (load {load:.1f} on {cores} cores), so times vary", err=True)


def _in_one_line(machine: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in machine.items() if value is not None)


def _progress(loads: list[Workload]) -> contextlib.AbstractContextManager[Iterable[Workload]]:
    return click.progressbar(loads, label="measuring", item_show_func=_name, file=sys.stderr)


def _name(load: Workload | None) -> str | None:
    return None if load is None else load.name


def _check_plot(path: Path) -> None:
    """Fails before the measuring, not after it."""
    if path.suffix not in (".svg", ".png"):
        raise click.BadParameter(f"`{path}` must end in .svg or .png", param_hint="--plot")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise click.UsageError("`--plot` needs matplotlib: pip install 'clipcheck[bench]'") from error
