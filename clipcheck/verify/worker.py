"""The process that experiments run in: torch imported once, no environment, a limit on time, memory and disk.

The parent sends a request as a line of JSON and reads lines back: `{"at": …}` before each case, `{"result": …}` at the
end. Silence for longer than the limit, or the end of the process, is an answer too.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

START_SECONDS = 120.0  # importing torch from a cold disk
MEMORY_BYTES = 4 << 30
_BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from clipcheck.verify.worker import serve; serve()"


class NoTorch(Exception):
    """torch cannot be imported; the message is one line for the user."""


class Lost(NamedTuple):
    """The worker fell silent or died at some case; `how` is a clause that says which."""

    at: str
    how: str


class Worker:
    """A process that answers requests one after the other, and is started anew after it was lost."""

    def __init__(self, seconds: float = 20.0) -> None:
        self.seconds = seconds
        self._process: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str | None] = queue.Queue()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ask(self, request: dict[str, Any]) -> Any | Lost:
        """The result of an experiment, or how it was lost. Raises NoTorch."""
        process = self._process or self._start()
        at = "the start"
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            while True:
                message = self._read(self.seconds)
                if message is None:
                    return Lost(at, self._ended())
                if "result" in message:
                    return message["result"]
                if "failed" in message:
                    return Lost(at, f"failed in the harness ({message['failed']})")
                at = message["at"]
        except queue.Empty:
            self.stop()
            return Lost(at, f"did not end within {self.seconds:g} s")
        except OSError:
            return Lost(at, self._ended())

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def _start(self) -> subprocess.Popen[str]:
        # Windows cannot start Python without SYSTEMROOT; nothing else of the user's gets in.
        environment = {key: os.environ[key] for key in ("SYSTEMROOT",) if key in os.environ}
        package = str(Path(__file__).resolve().parents[2])
        process = subprocess.Popen(
            [sys.executable, "-I", "-B", "-X", "utf8", "-c", _BOOT, package],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            text=True,
            encoding="utf-8",
        )
        self._process, self._lines = process, queue.Queue()
        threading.Thread(target=_pump, args=(process, self._lines), daemon=True).start()
        try:
            hello = self._read(START_SECONDS)
        except queue.Empty:
            hello = None
        if hello is None:
            self.stop()
            raise NoTorch("torch does not load: the process that imports it ended or hangs")
        if "missing" in hello:
            self.stop()
            raise NoTorch(f"torch cannot be imported ({hello['missing']}): pip install 'clipcheck[torch]'")
        return process

    def _read(self, seconds: float) -> dict[str, Any] | None:
        """The next message, None when the process has ended. Raises queue.Empty after `seconds`."""
        line = self._lines.get(timeout=seconds)
        return None if line is None else cast("dict[str, Any]", json.loads(line))

    def _ended(self) -> str:
        process = self._process
        code = process.wait() if process else 0
        self.stop()
        return f"was killed by signal {-code}" if code < 0 else f"ended the process with status {code}"


def _pump(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    assert process.stdout is not None
    with contextlib.suppress(ValueError):  # the pipe is closed under us when the worker is stopped
        for line in process.stdout:
            lines.put(line)
    lines.put(None)


# --- in the process -----------------------------------------------------------------------------------------------


def serve() -> None:
    """Answer requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)  # what a program prints is not an answer

    def say(**message: Any) -> None:
        answers.write(json.dumps(message) + "\n")

    try:
        import torch
    except ImportError as error:
        say(missing=str(error).partition("\n")[0])
        return
    torch.set_num_threads(1)
    _limit(RLIMIT_DATA=MEMORY_BYTES, RLIMIT_CORE=0)  # after the import, which is not the program's fault
    say(ready=True)
    for line in sys.stdin:
        try:
            answer = _answer(json.loads(line), lambda at: say(at=at))
        except Exception as error:
            say(failed=f"{type(error).__name__}: {error}".partition("\n")[0])
        else:
            say(result=answer)


def _limit(**limits: int) -> None:
    """Bounds on memory or disk, where the system has them."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind, limit in limits.items():
        if hasattr(resource, kind):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(getattr(resource, kind), (limit, limit))


def _answer(request: dict[str, Any], at: Callable[[str], None]) -> Any:
    match request:
        case {"pair": [before, after], "claim": kind, "to_torch": to_torch}:
            from clipcheck.verify.claims import Claim
            from clipcheck.verify.trial import judge

            at("the pair")
            return judge(Claim(kind), before, after, to_torch)
        case {"site": experiment}:
            from clipcheck.verify.replay import replay

            _limit(RLIMIT_FSIZE=0)  # nothing is written to disk
            return replay(experiment, at)
    raise ValueError(f"no such request: {sorted(request)}")
