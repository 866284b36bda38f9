"""`make bench`: how fast clipcheck answers, as ratios to ruff and TorchFix in one run.

    python benchmarks/linter.py [--tree DIR] [--runs N]

DIR holds unpacked packages of Python; without it, or where TorchFix cannot be installed, those rows are left out and
say so. Each pair is run in turn, A B A B …; the medians and the median of the pairwise ratios are printed.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
CLIPCHECK = [sys.executable, "-m", "clipcheck"]
UNCACHED = [*CLIPCHECK, "check", "--isolated", "--no-cache"]
TORCHFIX = "torchfix==0.7.0"


def seconds(command: Sequence[str]) -> float:
    """The wall time of one run; exit codes 0 and 1 are both an answer."""
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=HERE)
    taken = time.perf_counter() - start
    if done.returncode not in (0, 1):
        sys.exit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr.decode()[-300:]}")
    return taken


def median(command: Sequence[str], runs: int) -> float:
    seconds(command)
    return statistics.median(seconds(command) for _ in range(runs))


def pair(ours: Sequence[str], theirs: Sequence[str], runs: int) -> tuple[float, float, float]:
    """Medians of both, and the median of ours over theirs, run in turn."""
    seconds(ours)
    taken = [(seconds(ours), seconds(theirs)) for _ in range(runs)]
    a, b = zip(*taken, strict=True)
    return statistics.median(a), statistics.median(b), statistics.median(x / y for x, y in taken)


def loaded(command: Sequence[str]) -> str:
    """Which of the heavy modules a command imports, as Python itself reports it."""
    done = subprocess.run([sys.executable, "-X", "importtime", *command[1:]], capture_output=True, text=True, cwd=HERE)
    seen = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    return ", ".join(sorted(seen & {"click", "libcst", "torch", "concurrent.futures"})) or "none"


def torchfix(folder: Path) -> Path | None:
    """TorchFix in a separate environment, since it pins libcst below 1.6."""
    home = folder / "torchfix"
    venv.create(home, with_pip=True)
    program = home / ("Scripts" if os.name == "nt" else "bin") / "torchfix"
    done = subprocess.run(
        [str(program.with_name("python")), "-m", "pip", "install", "-q", TORCHFIX], capture_output=True
    )
    return program if done.returncode == 0 and program.exists() else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, default=HERE / ".corpus" / "tree")
    parser.add_argument("--runs", type=int, default=7)
    parser.add_argument("--no-torchfix", action="store_true")
    options = parser.parse_args()
    load = f", load {os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else ""
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}{load}\n")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, faulty = folder / "plain.py", folder / "faulty.py"
        plain.write_text("import os\n\nprint(os.getcwd())\n" * 100)
        faulty.write_text("import torch\n\n\ndef clip(ps):\n    torch.nn.utils.clip_grad_norm(ps, 1.0)\n")
        empty = median([sys.executable, "-c", "pass"], options.runs)
        for title, command in (
            ("--version", [*CLIPCHECK, "--version"]),
            ("--help", [*CLIPCHECK, "--help"]),
            ("a file without keywords", [*UNCACHED, str(plain)]),
            ("a file with a finding", [*UNCACHED, str(faulty)]),
        ):
            taken = median(command, options.runs)
            print(
                f"{title:28} {taken * 1000:6.0f} ms, {taken / empty:4.1f} × an empty interpreter; loads {loaded(command)}"
            )

        if not options.tree.is_dir():
            print(f"\nno packages in {options.tree}: the tree is not timed")
            return
        ruff = [str(BIN / "ruff"), "check", "--select", "F", "--no-cache", "--isolated"]
        row("the whole tree, beside ruff", [*UNCACHED, str(options.tree)], [*ruff, str(options.tree)], 3)
        cached = [*CLIPCHECK, "check", "--isolated", "--cache-dir", str(folder / "cache"), str(options.tree)]
        seconds(cached)  # fills the cache
        row("unchanged, with the cache", cached, [*ruff, str(options.tree)], 3)
        program = None if options.no_torchfix else torchfix(folder)
        if program is None:
            print(f"{TORCHFIX} is not installed: it is not timed")
            return
        fairseq = str(options.tree / "fairseq")
        row("fairseq, beside TorchFix", [*UNCACHED, fairseq], [str(program), "--select", "ALL", fairseq], 1)


def row(title: str, ours: Sequence[str], theirs: Sequence[str], runs: int) -> None:
    a, b, ratio = pair(ours, theirs, runs)
    print(f"{title:28} {a:6.2f} s against {b:6.2f} s, ratio {ratio:.3f} ({runs} in turn)")


if __name__ == "__main__":
    main()
