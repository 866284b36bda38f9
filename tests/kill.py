"""`make kill`: clipcheck is killed repeatedly while it fixes files, and must never leave a damaged one.

Half of the kills happen after a random time, the others before or after the n-th system call of the write phase. After
each one, every file must contain the complete old or the complete new text, the next run must remove leftover files,
and no process may survive. Usage: kill.py [KILLS] [SEED]
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
OLD = "import torch\n\n\ndef clip(model):\n    torch.nn.utils.clip_grad_norm(model.parameters(), 1.0)\n" + "# x\n" * 300
NEW = OLD.replace("import torch\n", "from clipcheck.runtime import clip_grad_norm_\n", 1).replace(
    "torch.nn.utils.clip_grad_norm(", "clip_grad_norm_("
)
FILES = 24  # enough for several processes
ARGUMENTS = ["check", "--fix", "--isolated", "--no-cache", "--select", "CLIP002", "--quiet"]


# --- the process that is killed ---------------------------------------------------------------------------------------


class Deadly:
    """A module or file whose calls are counted; at the chosen one, the process is killed, before or after it."""

    left = 0
    behind = False

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __enter__(self) -> Deadly:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        return self._counted(found) if callable(found) and not isinstance(found, type) else found

    def _counted(self, function: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            Deadly.left -= 1
            if Deadly.left == 0 and not Deadly.behind:
                os.kill(os.getpid(), signal.SIGKILL)
            result = function(*args, **options)
            if Deadly.left == 0 and Deadly.behind:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call


def die_at(call: int, behind: bool) -> None:
    """Fixes the files of the current folder, and dies at this call of the write phase."""
    from clipcheck import disk
    from clipcheck.cli.main import main

    write = disk.write

    def deadly_write(path: str, data: bytes, was: bytes) -> None:
        disk.os = Deadly(os)  # type: ignore[attr-defined]
        disk.open = lambda *a, **o: Deadly(open(*a, **o))  # type: ignore[attr-defined]  # noqa: SIM115
        write(path, data, was)
        disk.os = os  # type: ignore[attr-defined]

    Deadly.left, Deadly.behind = call, behind
    disk.write = deadly_write
    main([*ARGUMENTS, "--jobs", "1"])


# --- the process that kills -------------------------------------------------------------------------------------------


def run(folder: Path, *words: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "CLIPCHECK_KILL": folder.name}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([sys.executable, "-P", *words] if sys.version_info >= (3, 11) else [sys.executable, *words],
                            cwd=folder, env=environment, **quiet)  # type: ignore[call-overload,no-any-return]  # fmt: skip


def prepare(folder: Path) -> None:
    for number in range(FILES):
        (folder / f"train_{number}.py").write_text(OLD)
    os.link(folder / "train_0.py", folder / "second_name.txt")


def damaged(folder: Path) -> list[str]:
    """The files that contain neither the old nor the new text."""
    return [path.name for path in folder.glob("*.py") if path.read_text() not in (OLD, NEW)]


def leftovers(folder: Path) -> list[str]:
    expected = {f"train_{number}.py" for number in range(FILES)} | {"second_name.txt"}
    return sorted({path.name for path in folder.iterdir()} - expected)


def orphans(folder: Path) -> list[int]:
    """The processes that were started for a folder and are still running."""
    marker = f"CLIPCHECK_KILL={folder.name}\0".encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if marker in (process / "environ").read_bytes():
                found.append(int(process.name))
        except OSError:
            pass
    return found


def gone_by(folder: Path, seconds: float) -> bool:
    until = time.monotonic() + seconds
    while orphans(folder) and time.monotonic() < until:
        time.sleep(0.02)
    return not orphans(folder)


def one_kill(chance: random.Random, typical: float) -> Counter[str]:
    """The result of one kill: how the process was killed, and everything that is wrong afterward."""
    seen: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        if chance.random() < 0.5:
            call, behind = chance.randint(1, 14 * FILES), chance.random() < 0.5
            process = run(folder, __file__, "--die-at", str(call), str(int(behind)))
            process.wait()
        else:
            process = run(folder, "-m", "clipcheck", *ARGUMENTS, "--jobs", "2")
            time.sleep(chance.uniform(0, typical))
            process.kill()
            process.wait()
        seen["killed"] += process.returncode == -signal.SIGKILL
        seen["in the write phase"] += 0 < sum(path.read_text() == NEW for path in folder.glob("*.py")) < FILES
        seen["leftover"] += bool(leftovers(folder))
        seen["DAMAGED"] += bool(damaged(folder)) or (folder / "second_name.txt").read_text() != OLD
        seen["ORPHANS"] += not gone_by(folder, 10)
        run(folder, "-m", "clipcheck", *ARGUMENTS, "--jobs", "1").wait()
        seen["DAMAGED"] += bool(damaged(folder))
        seen["NOT FIXED"] += any(path.read_text() != NEW for path in folder.glob("*.py"))
        seen["LEFT FOR EVER"] += bool(leftovers(folder))
    return seen


def typical_run() -> float:
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        started = time.monotonic()
        run(Path(name), "-m", "clipcheck", *ARGUMENTS, "--jobs", "2").wait()
        return time.monotonic() - started


def main(kills: int, seed: int) -> int:
    """Kills that often and prints the results; returns 1 if anything is wrong."""
    if sys.platform != "linux":
        print("make kill needs Linux: it looks for processes in /proc")
        return 2
    typical = typical_run() * 1.2
    seen: Counter[str] = Counter()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, one in enumerate(
            pool.map(lambda number: one_kill(random.Random(f"{seed} {number}"), typical), range(kills))
        ):
            seen += one
            if sys.stderr.isatty():
                print(f"\r{done + 1} of {kills}", end="", file=sys.stderr)
    wrong = ("DAMAGED", "ORPHANS", "NOT FIXED", "LEFT FOR EVER")
    print(f"seed {seed}: {kills} runs, {seen['killed']} killed, {seen['in the write phase']} between the first write and the last, "
          f"{seen['leftover']} with a temporary file left; " + ", ".join(f"{seen[name]} {name.lower()}" for name in wrong))  # fmt: skip
    return 1 if any(seen[name] for name in wrong) else 0


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["--die-at", call, behind]:
            die_at(int(call), behind == "1")
        case words:
            sys.exit(main(*(int(word) for word in (*words, *("1000", "1")[len(words) :]))))
