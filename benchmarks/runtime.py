"""Times the clip on the CPU over a grid: numbers of gradients × sizes × dtypes, layouts, norms × threads × load.

`python benchmarks/runtime.py FILE` measures what FILE lacks, part by part, each under a minute, and adds it at once, so
that it can be stopped and started again. `--part` picks parts by pattern, `--list` names them, `--plot` draws what FILE
holds as heat maps. Every cell interleaves clipcheck, torch and two hand-written loops.
"""

from __future__ import annotations

import argparse
import contextlib
import fnmatch
import itertools
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from clipcheck import runtime
from clipcheck.bench import measure, peers
from clipcheck.runtime import reference

COUNTS = (1, 6, 20, 100, 1_000, 10_000, 50_000)
SIZES = (4, 100, 1_000, 10_000, 30_000, 100_000, 1_000_000, 30_000_000)
LARGEST = 30_000_000  # elements of a set
LOOPS_UP_TO = 1_000_000  # elements: beyond, the loops are not asked for
ROUNDS = (5, 301)
CPU = torch.device("cpu")

Clip = Callable[[list[Tensor], float, float], object]


class Part(NamedTuple):
    """Cells that are measured together: every count and size of one kind of gradients in one surrounding."""

    kind: str
    threads: int
    machine: str  # "quiet"; "busy" with one other process for each core; "niced": busy, and the others have priority

    @property
    def name(self) -> str:
        return f"{self.kind}, {self.threads} thread{'s' * (self.threads > 1)}, {self.machine}"


class Kind(NamedTuple):
    """A kind of gradients: how one of a number of elements is made, and the norm that is asked for."""

    dtype: torch.dtype
    make: Callable[[int, torch.dtype], Tensor]
    norm_type: float = 2.0


def _random(size: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(_matrix(size)).to(dtype)


def _transposed(size: int, dtype: torch.dtype) -> Tensor:
    rows, columns = _matrix(size)
    return torch.randn(columns, rows).to(dtype).t()


def _sliced(size: int, dtype: torch.dtype) -> Tensor:
    rows, columns = _matrix(size)
    return torch.randn(rows, columns + 8).to(dtype)[:, 4:-4]


def _constant(size: int, dtype: torch.dtype) -> Tensor:
    return torch.full(_matrix(size), 0.3).to(dtype)


def _vector(size: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(size).to(dtype)


def _matrix(size: int) -> tuple[int, int]:
    """A shape of so many elements, as square as divisors allow."""
    rows = next(n for n in range(math.isqrt(size), 0, -1) if size % n == 0)
    return rows, size // rows


KINDS = {
    "float32": Kind(torch.float32, _random),
    "float32, vectors": Kind(torch.float32, _vector),
    "bfloat16": Kind(torch.bfloat16, _random),
    "float16": Kind(torch.float16, _random),
    "transposed": Kind(torch.float32, _transposed),
    "sliced": Kind(torch.float32, _sliced),
    "constant": Kind(torch.float32, _constant),
    "p=1": Kind(torch.float32, _random, 1.0),
    "p=3": Kind(torch.float32, _random, 3.0),
    "p=inf": Kind(torch.float32, _random, math.inf),
}
PARTS = [Part(kind, threads, machine) for machine in ("quiet", "busy") for threads in (1, 2) for kind in KINDS]
if hasattr(os, "nice"):  # one, and last: a process without privileges cannot take it back, and its children inherit it
    PARTS.append(Part("float32", 2, "niced"))


def cells() -> list[tuple[int, int]]:
    """Returns the counts and sizes of the grid."""
    return [(count, size) for count, size in itertools.product(COUNTS, SIZES) if count * size <= LARGEST]


def measured(part: Part, count: int, size: int, seconds: float) -> Iterator[dict[str, Any]]:
    """Yields a row when nothing is clipped, and one when something is."""
    kind = KINDS[part.kind]
    torch.manual_seed(0)
    params = [_with_gradient(kind.make(size, kind.dtype)) for _ in range(count)]
    grads = [p.grad for p in params if p.grad is not None]
    exact = reference.total_norm(grads, kind.norm_type)
    error = abs(float(runtime.grad_norm(params, kind.norm_type)) / exact - 1)
    originals = [grad.clone() for grad in grads]

    def refill() -> None:
        torch._foreach_copy_(grads, originals)

    for case, max_norm in (("no clip", 10 * exact), ("clip", exact / 2)):
        calls = {
            name: _bound(clip, params, max_norm, kind.norm_type) for name, clip in _clips(count * size, kind).items()
        }
        timings = _interleaved(calls, refill if case == "clip" else lambda: None, seconds)
        refill()
        ours = timings["clipcheck"]
        loops = [ours.ratio(timing) for name, timing in timings.items() if "loop" in name]
        yield {
            **part._asdict(),
            "count": count,
            "size": size,
            "case": case,
            "rounds": len(ours.walls),
            "torch_us": round(1e3 * timings["torch"].wall, 2),
            "clipcheck_us": round(1e3 * ours.wall, 2),
            "to_torch": round(ours.ratio(timings["torch"]), 3),
            "to_loop": round(max(loops), 3) if loops else None,
            "error": error,
        }


def _interleaved(
    calls: dict[str, Callable[[], object]], reset: Callable[[], None], seconds: float
) -> dict[str, measure.Timing]:
    """Times the calls in as many interleaved rounds as the seconds allow."""
    start = time.perf_counter()
    for call in calls.values():
        reset()
        call()
    once = time.perf_counter() - start
    rounds = max(ROUNDS[0], min(ROUNDS[1], int(seconds / once)))
    return measure.interleaved(calls, CPU, reset, rounds)


def _clips(elements: int, kind: Kind) -> dict[str, Clip]:
    clips: dict[str, Clip] = {"clipcheck": runtime.clip_grad_norm_, "torch": torch.nn.utils.clip_grad_norm_}
    if elements <= LOOPS_UP_TO and kind.norm_type == 2:
        clips |= {
            name: lambda params, max_norm, _, clip=clip: clip(params, max_norm)
            for name, clip in peers.CLIPS.items()
            if "loop" in name
        }
    return clips


def _bound(clip: Clip, params: list[Tensor], max_norm: float, norm_type: float) -> Callable[[], object]:
    return lambda: clip(params, max_norm, norm_type)


def _with_gradient(grad: Tensor) -> Tensor:
    p = torch.nn.Parameter(torch.empty_like(grad))
    p.grad = grad
    return p


@contextlib.contextmanager
def surrounding(part: Part) -> Iterator[None]:
    """Sets the threads, keeps every core busy if asked to, and gives this process the lowest priority from then on."""
    torch.set_num_threads(part.threads)
    busy = (os.cpu_count() or 1) if part.machine != "quiet" else 0
    hogs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    if part.machine == "niced":
        os.nice(19)
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.wait()


def rows_in(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def _key(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["kind"], row["threads"], row["machine"], row["count"], row["size"]


def run(part: Part, file: Path, seconds: float) -> None:
    """Measures what the file lacks of a part, and adds each row when it is there."""
    done = {_key(row) for row in rows_in(file)}
    missing = [cell for cell in cells() if (*part, *cell) not in done]
    if not missing:
        return
    with surrounding(part), file.open("a") as out:
        for count, size in missing:
            for row in measured(part, count, size, seconds):
                out.write(json.dumps(row | _machine()) + "\n")
            out.flush()


def _machine() -> dict[str, Any]:
    about = measure.machine(CPU)
    return {key: about[key] for key in ("load", "torch", "date")}


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Yields one line a part: how its ratios to torch and to the better loop are distributed, and the worst cell."""
    yield "| gradients | case | to torch: median | 90 % | worst | at | to the loop: median | worst | error |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for part, case in itertools.product(PARTS, ("no clip", "clip")):
        own = [row for row in rows if Part(row["kind"], row["threads"], row["machine"]) == part and row["case"] == case]
        if not own:
            continue
        own.sort(key=lambda row: row["to_torch"])
        loops = sorted(row["to_loop"] for row in own if row["to_loop"] is not None)
        worst = own[-1]
        yield (
            f"| {part.name} | {case} | {own[len(own) // 2]['to_torch']:.2f} | {own[9 * len(own) // 10]['to_torch']:.2f} "
            f"| {worst['to_torch']:.2f} | {worst['count']:,} × {worst['size']:,} "
            + (f"| {loops[len(loops) // 2]:.2f} | {loops[-1]:.2f} " if loops else "| | ")
            + f"| {max(row['error'] for row in own):.0e} |"
        )


def plot(rows: list[dict[str, Any]], file: Path) -> None:
    """Draws a heat map for each part and case: green is faster than torch, red slower."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = [
        (part, case, own)
        for part, case in itertools.product(PARTS, ("no clip", "clip"))
        if (own := [r for r in rows if (r["kind"], r["threads"], r["machine"], r["case"]) == (*part, case)])
    ]
    columns = 4
    height = math.ceil(len(panels) / columns)
    figure, axes = pyplot.subplots(height, columns, figsize=(5 * columns, 3.4 * height), squeeze=False)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    for axis, (part, case, own) in zip(axes.flat, panels, strict=False):
        ratios = [[math.nan] * len(COUNTS) for _ in SIZES]
        for row in own:
            ratios[SIZES.index(row["size"])][COUNTS.index(row["count"])] = row["to_torch"]
        axis.imshow([[math.log2(r) for r in line] for line in ratios], cmap="RdYlGn_r", vmin=-2, vmax=2, aspect="auto")
        for y, x in itertools.product(range(len(SIZES)), range(len(COUNTS))):
            if not math.isnan(ratios[y][x]):
                axis.text(x, y, f"{ratios[y][x]:.2f}", ha="center", va="center", fontsize=7)
        axis.set_xticks(range(len(COUNTS)), [f"{count:,}" for count in COUNTS], fontsize=7)
        axis.set_yticks(range(len(SIZES)), [f"{size:,}" for size in SIZES], fontsize=7)
        axis.set_title(f"{part.name}: {case}", fontsize=9)
    figure.suptitle("Time of clipcheck's clip relative to torch's: number of gradients (across) × elements of each")
    figure.tight_layout(rect=(0, 0, 1, 0.99))
    figure.savefig(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="JSON lines: read, and added to")
    parser.add_argument("--part", default="*", help="a pattern: 'float32*quiet'")
    parser.add_argument("--seconds", type=float, default=0.35, help="for each cell, with and without a clip")
    parser.add_argument("--list", action="store_true", help="name the parts and stop")
    parser.add_argument("--plot", type=Path, help="draw heat maps into this file (needs matplotlib)")
    args = parser.parse_args()
    chosen = [part for part in PARTS if fnmatch.fnmatchcase(part.name, args.part)]
    if args.list:
        print(*(part.name for part in chosen), sep="\n")
        return
    for part in chosen:
        start = time.perf_counter()
        run(part, args.file, args.seconds)
        print(f"{part.name}: {time.perf_counter() - start:.0f} s", file=sys.stderr)
    rows = rows_in(args.file)
    print(*table(rows), sep="\n")
    if args.plot:
        plot(rows, args.plot)


if __name__ == "__main__":
    main()
