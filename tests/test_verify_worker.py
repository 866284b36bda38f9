"""The worker from outside, with scripts in the place of what it runs: what it answers, how it is lost, what it is given."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from clipcheck.verify import worker
from clipcheck.verify.worker import Lost, NoTorch, Worker

READY = "import json, os, sys, time\ndef say(**message): print(json.dumps(message), flush=True)\nsay(ready=True)\n"
ASKED = "request = json.loads(sys.stdin.readline())\n"
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX's signals and folders")


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what a worker runs after it has said that it is ready."""
    return lambda code, head=READY: monkeypatch.setattr(worker, "_BOOT", head + code)


def asked(seconds: float = 20.0, request: object = None) -> Any:
    with Worker("sites", seconds) as one:
        return one.ask({"x": request})


# --- answers --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("result", [[1, ["a"], ""], None, "text", {"at": "x"}, 0])
def test_a_result_is_handed_on(script: Any, result: object) -> None:
    script(f"{ASKED}say(at='one')\nsay(result=json.loads({json.dumps(result)!r}))\nsys.stdin.readline()")
    assert asked() == result


def test_one_worker_answers_one_request_after_the_other(script: Any) -> None:
    script("for line in sys.stdin: say(result=[os.getpid(), json.loads(line)['x']])")
    with Worker("sites") as one:
        first, second = one.ask({"x": 1}), one.ask({"x": "é"})
    assert first[0] == second[0]
    assert (first[1], second[1]) == (1, "é")


def test_a_worker_is_started_again_when_it_was_lost(script: Any) -> None:
    script("for line in sys.stdin:\n    if json.loads(line)['x']: sys.exit(3)\n    say(result='fine')")
    with Worker("sites") as one:
        assert one.ask({"x": False}) == "fine"
        assert one.ask({"x": True}) == Lost("the start", "ended the process with status 3")
        assert one._process is None
        assert one.ask({"x": False}) == "fine"


@pytest.mark.parametrize(
    ("code", "lost"),
    [
        ("say(failed='KeyError: 1')", Lost("the start", "failed in the harness (KeyError: 1)", True)),
        ("say(at='case 2, after')\nsay(failed='KeyError: 1')", Lost("case 2, after", "failed in the harness (KeyError: 1)", True)),
        ("say(at='a')\nsay(refused='open /x')", Lost("a", "tried what no verification may do (open /x)", True)),
        ("say(at='a')\nprint('nonsense', flush=True)", Lost("a", "sent an invalid answer", True)),
        ("say(at=1)", Lost("the start", "sent an invalid answer", True)),
        ("say(failed=1)", Lost("the start", "sent an invalid answer", True)),
        ("say(refused=None)", Lost("the start", "sent an invalid answer", True)),
        ("say(other=1)", Lost("the start", "sent an invalid answer", True)),
        ("say(at='a')\nsys.exit(7)", Lost("a", "ended the process with status 7")),
        ("say(at='b')\nsys.exit(0)", Lost("b", "ended the process with status 0")),
    ],
)  # fmt: skip
def test_how_a_worker_is_lost(script: Any, code: str, lost: Lost) -> None:
    script(f"{ASKED}{code}\nsys.stdin.readline()")
    assert asked() == lost


@posix
def test_a_worker_that_is_killed(script: Any) -> None:
    script(f"{ASKED}say(at='a')\nos.kill(os.getpid(), {int(signal.SIGSEGV)})")
    assert asked() == Lost("a", f"was killed by signal {int(signal.SIGSEGV)}")


def test_a_case_that_does_not_end(script: Any) -> None:
    script(f"{ASKED}say(at='a')\ntime.sleep(60)")
    start = time.monotonic()
    assert asked(0.5) == Lost("a", "did not end within 0.5 s")
    assert time.monotonic() - start < 20


def test_each_case_has_its_own_time(script: Any) -> None:
    script(
        f"{ASKED}for case in 'abc':\n    say(at=case)\n    time.sleep(0.5)\nsay(result='fine')\nsys.stdin.readline()"
    )
    assert asked(1.2) == "fine"


def test_a_request_has_a_limit_of_its_own(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "REQUEST_SECONDS", 1.0)
    script(f"{ASKED}while True:\n    say(at='again')\n    time.sleep(0.2)")
    assert asked(30.0) == Lost("again", "did not end within 1 s")


def test_a_worker_that_ends_before_it_reads_is_lost(script: Any) -> None:
    script("os.close(0)\ntime.sleep(0.2)\nsys.exit(4)")
    with Worker("sites") as one:
        one._start()
        time.sleep(1.0)
        assert one.ask({"x": "y" * (1 << 20)}) == Lost("the start", "ended the process with status 4")


def test_a_worker_that_floods_is_ended(script: Any) -> None:
    script(f"{ASKED}while True: say(at='again')")
    with Worker("sites") as one:
        one._start()
        assert one._process is not None and one._process.stdin is not None
        one._process.stdin.write(b"{}\n")
        one._process.stdin.flush()
        assert one._process.wait(20) != 0
        assert one._lines.qsize() <= worker.LINES_MOST + 1


def test_a_line_without_an_end_is_no_answer(script: Any) -> None:
    script(f"{ASKED}sys.stdout.write('1' * {worker.LINE_MOST + 10})\nsys.stdout.flush()\nsys.stdin.readline()")
    found = asked(10.0)
    assert isinstance(found, Lost) and "invalid answer" in found.how


# --- its life -------------------------------------------------------------------------------------------------------------


def test_a_worker_that_has_worked_long_makes_room_for_another(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "LIFE_SECONDS", 0.5)
    script("for line in sys.stdin:\n    time.sleep(json.loads(line)['x'])\n    say(result=os.getpid())")
    with Worker("sites") as one:
        first = one.ask({"x": 0.0})
        assert one.ask({"x": 0.8}) == first
        second = one.ask({"x": 0.0})
        assert second != first
        assert one.ask({"x": 0.0}) == second  # its time is its own


def test_what_is_stopped_is_gone(script: Any) -> None:
    script("time.sleep(60)")
    one = Worker("sites")
    one.stop()  # nothing has been started
    process = one._start()
    one.stop()
    assert process.poll() is not None
    assert process.stdin is not None and process.stdin.closed
    assert process.stdout is not None and process.stdout.closed
    assert one._process is None


@posix
def test_what_a_worker_has_started_is_stopped_with_it(script: Any, tmp_path: Path) -> None:
    child = f"import time, os\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(60)"
    script(f"import subprocess\nsubprocess.Popen([sys.executable, '-c', {child!r}])\n{ASKED}time.sleep(60)")
    assert isinstance(asked(2.0), Lost)
    pid = int((tmp_path / "pid").read_text())
    for _ in range(100):
        if not Path(f"/proc/{pid}").exists() or " Z " in Path(f"/proc/{pid}/stat").read_text():
            return
        time.sleep(0.05)
    pytest.fail("the child is still there")


# --- what it is given -----------------------------------------------------------------------------------------------------

TELLS = f"{ASKED}say(result=[sys.argv[1:], dict(os.environ), sys.flags.isolated, sys.flags.no_site, sys.flags.dont_write_bytecode, sys.flags.utf8_mode])\nsys.stdin.readline()"


def test_a_worker_is_given_nothing_of_the_users(script: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    script(TELLS)
    (told,), environment, *flags = asked(7.0)
    package, kind, seconds, path, readable = json.loads(told)
    assert package == str(Path(worker.__file__).parents[1] / "__init__.py")
    assert (kind, seconds) == ("sites", 12.0)
    assert path == worker.libraries.path()
    assert readable == []
    assert flags == [1, 1, 1, 1]
    own = {key: value for key, value in environment.items() if key not in ("LC_CTYPE", "SYSTEMROOT")}
    assert own == dict.fromkeys(("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP"), own["HOME"])
    if sys.platform != "win32":
        assert not os.path.exists(own["HOME"])  # the folder is gone when the worker is ready
        assert os.path.basename(own["HOME"]).startswith("clipcheck-")


def test_fixtures_may_read_libraries(script: Any) -> None:
    script(TELLS)
    with Worker("fixtures", 7.0) as one:
        (told,), *_ = one.ask({})
    *_, path, readable = json.loads(told)
    assert readable == worker.libraries.readable(path)
    assert Worker("fixtures").seconds == 20.0


def test_windows_needs_its_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SYSTEMROOT", "C:\\Windows")
    monkeypatch.setenv("PATH", "x")
    assert worker._environment("a folder") == {
        "SYSTEMROOT": "C:\\Windows", "HOME": "a folder", "USERPROFILE": "a folder", "TMPDIR": "a folder",
        "TEMP": "a folder", "TMP": "a folder",
    }  # fmt: skip


# --- without torch --------------------------------------------------------------------------------------------------------


def test_torch_that_is_missing_is_one_line(script: Any) -> None:
    script("say(missing=\"No module named 'torch'\")", READY.replace("say(ready=True)\n", ""))
    with pytest.raises(NoTorch, match=r"^torch cannot be imported \(No module named 'torch'\): .*install"):
        asked()


@pytest.mark.parametrize("code", ["sys.exit(1)", "print('nonsense', flush=True)", "say(ready=False)", "time.sleep(60)"])
def test_torch_that_does_not_load_is_one_line(script: Any, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "START_SECONDS", 1.0)
    script(code, READY.replace("say(ready=True)\n", ""))
    with Worker("sites") as one:
        with pytest.raises(NoTorch, match="the process that imports it ended or hangs"):
            one.ask({})
        assert one._process is None
        assert not os.path.exists(one._folder)
