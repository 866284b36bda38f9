"""`python -m clipcheck.run train.py …`: runs a program with the runtime in place of torch's functions, without changing its code.

The program is started as `python train.py …` itself, with two environment variables: `CLIPCHECK_RUNTIME` says what to
install, and `PYTHONPATH` begins with `clipcheck/startup`, where Python finds what does it. Processes that the program
starts inherit both: workers of torchrun, of Accelerate, of Lightning, spawned ones. So it is installed on every rank.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

USAGE = """\
Usage: python -m clipcheck.run [--results plain|torch] PROGRAM [ARGUMENT]...

PROGRAM is a Python file, `-m` and a module, or a command such as torchrun.
--results torch: norms of DTensors are DTensors, as torch's are.
"""


def main(arguments: list[str]) -> int:
    """Runs the program; returns its exit code if the system cannot replace this process by it."""
    results, program = _parsed(arguments)
    if program[:1] in (["-h"], ["--help"]):
        print(USAGE, end="")
        return 0
    if not program:
        return _refused("what to run is missing")
    if results not in ("plain", "torch"):
        return _refused(f"invalid value {results!r} for --results (expected plain or torch)")
    command = _command(program)
    if command is None:
        return _refused(f"{program[0]}: no such file or command")
    return _run(command, results)


def _parsed(arguments: list[str]) -> tuple[str, list[str]]:
    """The value of `--results`, and the program with its own arguments, which are not looked at."""
    match arguments:
        case ["--results", results, *program]:
            return results, program
        case [str(first), *program] if first.startswith("--results="):
            return first.partition("=")[2], program
    return "plain", arguments


def _run(command: list[str], results: str) -> int:
    path = [str(Path(__file__).with_name("startup")), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "CLIPCHECK_RUNTIME": results, "PYTHONPATH": os.pathsep.join(path)}
    sys.stdout.flush()
    if sys.platform != "win32":  # there the new process would have another id, and the parent would wait for this one
        os.execve(command[0], command, environment)
    return subprocess.run(command, env=environment).returncode


def _command(program: list[str]) -> list[str] | None:
    """The words to start: by this interpreter, with the options that it was given, or a command on the path."""
    first = program[0]
    if first.startswith("-") or first.endswith(".py") or os.path.isdir(first):
        given = sys.orig_argv[1 : sys.orig_argv.index("-m")] if "-m" in sys.orig_argv else []
        return [sys.executable, *given, *program]
    found = shutil.which(first)
    return [found, *program[1:]] if found else None


def _refused(why: str) -> int:
    print(f"clipcheck.run: {why}; `python -m clipcheck.run --help` shows how", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
