"""Worker processes: they run no code of the current folder, a crash costs one file, and none outlives its parent."""

from __future__ import annotations

import gc
import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from conftest import PROJECT

from clipcheck.engine import workers
from clipcheck.engine.workers import Died, Workers

CALL = "import torch\n\ntorch.nn.utils.clip_grad_norm([], 1.0)\n"
POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


def double(number: int) -> int:
    """Always dies on 3; a negative number takes long."""
    if number == 3:
        os._exit(7)
    if number < 0:
        time.sleep(60)
    return number * 2


def test_a_dead_worker_costs_one_item() -> None:
    with Workers(2) as workers:
        done = dict(workers.each(double, range(8)))
    assert done.pop(3) == Died("ended with exit code 7")
    assert done == {number: number * 2 for number in (0, 1, 2, 4, 5, 6, 7)}


def once(path: str) -> str:
    """Dies the first time, like a process that the system kills for its memory."""
    if not os.path.exists(path):
        Path(path).touch()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    return "done"


@POSIX
def test_an_item_whose_worker_died_once_is_tried_again(tmp_path: Path) -> None:
    with Workers(1) as workers:
        assert list(workers.each(once, [str(tmp_path / "tried")])) == [(str(tmp_path / "tried"), "done")]


def fails(number: int) -> int:
    raise KeyError(number)


def test_an_error_of_the_function_counts_as_a_death_of_its_worker() -> None:
    with Workers(1) as workers:
        (_, died), *_ = workers.each(fails, [1])
    assert isinstance(died, Died)


def test_the_processes_end_with_the_block() -> None:
    with Workers(2) as workers:
        list(workers.each(double, range(2)))
        processes = [*workers._idle]
        assert processes
        assert all(process.poll() is None for process in processes)
    assert all(process.poll() is not None for process in processes)


def test_a_worker_answers_on_its_own_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here in this process: what is printed goes nowhere, Ctrl-C is left to the parent, and the end of the requests is its end."""
    incoming, outgoing = io.BytesIO(), io.BytesIO()
    for item in (1, 2, 3):
        workers._send(incoming, (noisy, item))
    incoming.seek(0)
    ended: list[int] = []
    ignored: list[object] = []
    usual = gc.get_threshold()
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=incoming))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(buffer=outgoing))
    monkeypatch.setattr(signal, "signal", lambda *given: ignored.append(given))
    monkeypatch.setattr(workers, "os", SimpleNamespace(devnull=os.devnull, _exit=ended.append))
    try:
        gc.set_threshold(700, 10, 10)
        with pytest.raises(KeyError, match="3"):
            workers.serve()
        assert all(now > before for now, before in zip(gc.get_threshold(), (700, 10, 10), strict=True))
        while not ended:
            time.sleep(0.001)
        assert (sys.stdin.read(), ended, ignored) == ("", [1], [(signal.SIGINT, signal.SIG_IGN)])
    finally:
        sys.stdout.close()
        gc.set_threshold(*usual)
    outgoing.seek(0)
    assert [workers._receive(outgoing) for _ in range(2)] == [10, 20]
    assert outgoing.read() == b""


def noisy(number: int) -> int:
    print("this must not get into the answers")
    if number == 3:
        raise KeyError(number)
    return number * 10


class Process:
    """A process that answers, or has ended with an exit code."""

    def __init__(self, *answers: object, code: int = 0) -> None:
        self.stdin, self.stdout, self.code = io.BytesIO(), io.BytesIO(), code
        for answer in answers:
            workers._send(self.stdout, answer)
        self.stdout.seek(0)
        self.killed = self.waited = False

    def kill(self) -> None:
        self.killed = True

    def wait(self) -> int:
        self.waited = self.killed  # else it would wait for good
        return self.code


def test_an_item_is_given_to_two_processes_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    processes: list[Any] = [Process(code=1), Process("first", code=-9), Process("third"), Process(code=-7)]
    left = iter(processes)
    monkeypatch.setattr(workers, "_start", lambda: next(left))
    with Workers(1) as some:
        assert list(some.each(str, ["a", "b", "c"])) == [
            ("a", "first"),
            ("b", "third"),
            ("c", Died("ended by signal 7")),
        ]
        assert all(process.killed for process in processes)
        assert (some._idle, some._busy) == ([], set())


def test_all_processes_are_killed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    processes: list[Any] = [Process("a"), Process()]
    with Workers(2) as some:
        some._idle.append(processes[0])
        some._busy.add(processes[1])
        assert not any(process.killed for process in processes)
    assert all(process.killed and process.waited for process in processes)


def test_a_process_at_work_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else nothing would kill it at the end."""
    process: Any = Process("a")
    known: list[bool] = []

    def ask(self: Workers, *asked: Any) -> object:
        known.append(asked[0] in self._busy)
        return real(self, *asked)

    real: Any = Workers._ask
    monkeypatch.setattr(Workers, "_ask", ask)
    monkeypatch.setattr(workers, "_start", lambda: process)
    with Workers(1) as some:
        assert list(some.each(str, [1])) == [(1, "a")]
        assert some._busy == set()
    assert known == [True]


def test_a_process_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []

    def start() -> Any:
        started.append(Process(*"abc"))
        return started[-1]

    monkeypatch.setattr(workers, "_start", start)
    with Workers(1) as some:
        assert list(some.each(str, [1, 2, 3])) == [(1, "a"), (2, "b"), (3, "c")]
        assert (some._idle, some._busy) == (started, set())
    assert len(started) == 1


def test_no_more_threads_than_items_and_none_without(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Any] = []
    monkeypatch.setattr(workers, "_start", lambda: started.append(Process(1)) or started[-1])
    with Workers(4) as some:
        assert list(some.each(str, [])) == []
        assert list(some.each(str, ["a"])) == [("a", 1)]
    assert len(started) == 1


# --- the whole program ------------------------------------------------------------------------------------------------

# What the standard library imports indirectly, in any Python from 3.10 on, and what clipcheck imports.
NAMES = """
    abc argparse ast asyncio base64 bisect bz2 codecs collections concurrent configparser contextlib contextvars copy
    copyreg ctypes dataclasses datetime decimal difflib enum errno fnmatch functools gc genericpath getpass glob hashlib
    heapq hmac html importlib inspect io itertools json keyword linecache locale logging lzma math multiprocessing
    numbers opcode operator os pathlib pickle platform posixpath queue random re reprlib resource runpy secrets select
    selectors shlex shutil signal site sitecustomize socket ssl stat string struct subprocess symtable sysconfig tempfile
    textwrap threading time token tokenize tomllib traceback types typing unicodedata urllib usercustomize uuid
    warnings weakref xml zipfile zipimport zlib _compat_pickle _weakrefset
    click libcst yaml markdown_it mdurl packaging pygls torch numpy clipcheck colorama tomli typing_extensions
""".split()


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """A folder with enough files for several processes, and a trap for every name that might be imported."""
    folder = tmp_path / "a folder"
    folder.mkdir()
    for number in range(30):
        (folder / f"train_{number}.py").write_text(CALL)
    trap = f"open({str(tmp_path / 'trace')!r}, 'a').write(__name__ + ' ')\n"
    for name in NAMES:
        (folder / f"{name}.py").write_text(trap)
    return folder


def trace(folder: Path) -> str:
    path = folder.parent / "trace"
    return path.read_text() if path.exists() else ""


COMMANDS = [
    ["check", "--jobs", "2", "--no-cache"],
    ["check", "--jobs", "2", "--fix"],
    ["check", "--jobs", "2", "--diff", "--output-format", "sarif"],
    ["check", "--jobs", "1", "--add-ignore"],
    ["clean"],
    ["rules"],
    ["rule", "CLIP002"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_code_of_the_current_folder_is_run(hostile: Path, command: list[str]) -> None:
    script = hostile.parent / "bin" / "clipcheck"  # what pip creates for the entry point
    script.parent.mkdir()
    script.write_text("from clipcheck.cli.main import main\nmain()\n")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(
        [sys.executable, str(script), *command], cwd=hostile, env=environment, capture_output=True, text=True
    )
    assert done.returncode in (0, 1), done.stderr
    assert trace(hostile) == ""


def test_no_code_of_the_current_folder_is_run_by_the_module(hostile: Path) -> None:
    """`python -m` puts the folder first on the path; only what it imports before clipcheck is beyond our control."""
    probe = hostile.parent / "probe.py"
    probe.write_text("import sys; print(*{name.partition('.')[0] for name in sys.modules})")
    before = subprocess.run(
        [sys.executable, "-m", "probe"], cwd=hostile.parent, capture_output=True, text=True, check=True
    ).stdout.split()
    for name in (*before, "clipcheck"):
        (hostile / f"{name}.py").unlink(missing_ok=True)
    assert len(list(hostile.glob("*.py"))) > 100
    environment = {**os.environ, "PYTHONPATH": str(PROJECT)}
    command = [sys.executable, "-m", "clipcheck", "check", "--jobs", "2", "--no-cache"]
    done = subprocess.run(command, cwd=hostile, env=environment, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert trace(hostile) == ""


def children(process: int) -> list[int]:
    """Those of all its threads."""
    of_threads = Path(f"/proc/{process}/task").glob("*/children")
    return [int(word) for path in of_threads for word in path.read_text().split()]


SLOW = f"""
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
sys.path.insert(0, {str(PROJECT / "tests")!r})
from clipcheck.engine.workers import Workers
from test_workers import double
with Workers(2) as workers:
    print("ready", flush=True)
    list(workers.each(double, [-1, -2]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the children of a process are looked up in /proc")
@pytest.mark.parametrize("how", ["SIGKILL", "SIGTERM", "SIGHUP", "SIGINT"])
def test_no_worker_outlives_its_parent_or_keeps_its_streams_open(how: str) -> None:
    parent = subprocess.Popen([sys.executable, "-c", SLOW], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=PROJECT)
    assert parent.stdout is not None
    assert parent.stdout.readline() == b"ready\n"
    until = time.monotonic() + 20
    while len(workers := children(parent.pid)) < 2 and time.monotonic() < until:
        time.sleep(0.05)
    assert len(workers) == 2
    time.sleep(0.3)
    parent.send_signal(getattr(signal, how))
    parent.communicate(timeout=20)  # returns when all ends of the pipes are closed
    while any(os.path.exists(f"/proc/{worker}") for worker in workers) and time.monotonic() < until:
        time.sleep(0.05)
    assert not [worker for worker in workers if os.path.exists(f"/proc/{worker}")]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the processes are looked up in /proc")
def test_a_few_kills_damage_nothing() -> None:
    """`make kill` does a thousand."""
    import kill

    assert kill.main(kills=6, seed=3) == 0
