"""The scratch copies that `make mutate-source` runs tests in, and what it adds to pytest there.

Where the system can fork, a copy's runs are children of one process that has imported the libraries of the tests, but
nothing of the project: a run then starts in the time that the test file takes to load, about a tenth of a second, and
not in the several seconds of torch. Elsewhere each run is a separate process.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import coverage
import pytest

PROJECT = Path(__file__).resolve().parent.parent
REQUEST = "CLIPCHECK_MUTATION"  # the environment variable that names the file with what a run is asked for
TEST = "CLIPCHECK_MUTATION_TEST"  # the one that tells a subprocess for which test it runs
COVERAGE = "COVERAGE_PROCESS_START"
MEMORY = 16 << 30  # bytes of address space: a loop that does not end takes no machine down
LIBRARIES = ("torch", "torch.utils.data", "libcst.metadata", "numpy", "click.testing", "hypothesis", "unittest.mock")


class Tree:
    """A copy of the project with an interpreter that imports clipcheck from it, also in isolated subprocesses."""

    _clock = itertools.count(1_000_000_000, 10)

    def __init__(self, root: Path) -> None:
        self.root = root
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listed, cwd=PROJECT, check=True, capture_output=True).stdout.decode().split("\0"):
            if name and (PROJECT / name).is_file():
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(PROJECT / name, root / name)
        venv.create(root / ".venv", with_pip=False, symlinks=os.name != "nt")
        self.python = str(root / ".venv" / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))
        where = "import sysconfig; print(sysconfig.get_path('purelib'))"
        site = subprocess.run([self.python, "-c", where], check=True, capture_output=True, text=True).stdout.strip()
        borrowed = [path for path in sys.path if "site-packages" in path]  # without what these point to, the checkout
        start = f"import os; os.environ.get('{COVERAGE}') and __import__('coverage').process_startup()"
        (Path(site) / "scratch.pth").write_text("\n".join([str(root), *borrowed, start]) + "\n", encoding="utf-8")
        self._parent: subprocess.Popen[str] | None = None

    def pytest(self, files: Iterable[str], request: dict[str, Any], seconds: float, **more: str) -> int | None:
        """The exit code of a run with this file as a plugin, None where it takes too long."""
        path = self.root.parent / f"{self.root.name}.json"
        path.write_text(json.dumps(request), encoding="utf-8")
        environment = {**os.environ, REQUEST: str(path), "PYTHONPATH": str(self.root / "tests"), **more}
        plugins = ["-p", "source_trees", "-p", "no:cacheprovider", "-p", "no:xdist"]
        arguments = ["-q", "-m", "not corpus", *plugins, *request["words"], *files]
        if hasattr(os, "fork"):
            return self._forked({"arguments": arguments, "environment": environment, "seconds": seconds})
        command = [self.python, "-m", "pytest", *arguments]
        pipe = subprocess.DEVNULL
        with subprocess.Popen(command, cwd=self.root, env=environment, stdin=pipe, stdout=pipe, stderr=pipe) as run:
            try:
                return run.wait(seconds)
            except subprocess.TimeoutExpired:
                run.kill()
                return None

    def _forked(self, asked: dict[str, Any]) -> int | None:
        if self._parent is None:
            command = [self.python, str(self.root / "tests" / "source_trees.py")]
            self._parent = subprocess.Popen(
                command, cwd=self.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        assert self._parent.stdin is not None and self._parent.stdout is not None
        self._parent.stdin.write(json.dumps(asked) + "\n")
        self._parent.stdin.flush()
        code: int | None = json.loads(self._parent.stdout.readline())
        return code

    def close(self) -> None:
        if self._parent is not None:
            self._parent.communicate()

    def write(self, name: str, text: str) -> None:
        path = self.root / name
        path.write_bytes(text.encode())
        stamp = next(self._clock)  # compiled files are told apart by whole seconds
        os.utime(path, (stamp, stamp))


# --- the process that runs fork from ----------------------------------------------------------------------------------


def _forks() -> None:
    """Answers each line of the input, a run of pytest, with its exit code, null where it takes too long."""
    for name in LIBRARIES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    assert not any(name.partition(".")[0] == "clipcheck" for name in sys.modules), "a run must import its own"
    for line in sys.stdin:
        asked = json.loads(line)
        child = os.fork()
        if not child:
            _child(asked)
        code = _waited(child, asked["seconds"])
        with contextlib.suppress(OSError):
            os.killpg(child, signal.SIGKILL)  # with what it has started
        if code is None:
            os.waitpid(child, 0)
        print(json.dumps(code), flush=True)


def _waited(child: int, seconds: float) -> int | None:
    """The exit code of a child, None where it does not end in time."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return None


def _child(asked: dict[str, Any]) -> None:
    code = 3
    try:
        os.setsid()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nowhere, descriptor)
        os.environ.clear()
        os.environ.update(asked["environment"])
        sys.argv = ["pytest", *asked["arguments"]]
        sys.path[:0] = [os.getcwd()]
        measuring = coverage.process_startup() if COVERAGE in os.environ else None
        code = int(pytest.main(asked["arguments"]))
        if measuring is not None:
            measuring.stop()
            measuring.save()
    finally:
        os._exit(code)


# --- inside of pytest: what the run is asked for ----------------------------------------------------------------------

_asked: dict[str, Any] = json.loads(Path(os.environ[REQUEST]).read_text("utf-8")) if REQUEST in os.environ else {}
_seconds: dict[str, float] = {}
_failed: list[str] = []


def pytest_configure() -> None:
    if os.name != "nt":
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if "tests" in _asked:
        order = {name: place for place, name in enumerate(_asked["tests"])}
        items[:] = sorted((item for item in items if item.nodeid in order), key=lambda item: order[item.nodeid])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    measuring = coverage.Coverage.current()
    os.environ[TEST] = item.nodeid  # subprocesses say so in their own data
    if measuring:
        measuring.switch_context(item.nodeid)
    result = yield
    if measuring:
        measuring.switch_context("")
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    _seconds[report.nodeid] = _seconds.get(report.nodeid, 0.0) + report.duration
    if report.failed:
        _failed.append(report.nodeid)


def pytest_sessionfinish() -> None:
    if "out" in _asked:
        Path(_asked["out"]).write_text(json.dumps({"seconds": _seconds, "failed": _failed}), encoding="utf-8")


if __name__ == "__main__":
    _forks()
