"""Controls the process that runs experiments: starts it without the user's environment, watches it, and kills it.

The parent sends a request as a line of JSON and reads lines back, as `serve` writes them. A timeout, invalid output and
the end of the process are answers, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

from clipcheck import extras
from clipcheck.verify import libraries

START_SECONDS = 120.0  # importing torch from a cold disk
REQUEST_SECONDS = 120.0  # all cases of a request together
LIFE_SECONDS = 300.0  # of work before a new process takes over: its limit on CPU time is for its whole life
GRACE_SECONDS = 5.0  # after this, the process ends itself if nobody has killed it
LINE_MOST = 1 << 20
LINES_MOST = 1000

_BOOT = """\
import importlib.util, json, sys
package, kind, seconds, path, readable = json.loads(sys.argv[1])
sys.path += path
spec = importlib.util.spec_from_file_location("clipcheck", package)
sys.modules["clipcheck"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(sys.modules["clipcheck"])
from clipcheck.verify.serve import serve
serve(kind, seconds, readable)
"""


class NoTorch(Exception):
    """torch cannot be imported; the message is one line for the user."""


class Lost(NamedTuple):
    """The worker stopped answering or died; `how` is a clause that says in which case.

    `harmless` is true if this says nothing about the code: the harness failed, or denied something to the code.
    """

    at: str
    how: str
    harmless: bool = False


class Worker:
    """A process that answers requests of one kind, one after the other, and is restarted if it is lost."""

    def __init__(self, kind: Literal["sites", "fixtures"], seconds: float = 20.0) -> None:
        self.kind = kind
        self.seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None
        self._lines: queue.Queue[bytes] = queue.Queue()
        self._folder = ""
        self._busy = 0.0

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def ask(self, request: dict[str, Any]) -> Any | Lost:
        """The result of an experiment, or how the worker was lost. Raises NoTorch."""
        if self._busy > LIFE_SECONDS:
            self.stop()
        process = self._process or self._start()
        start = time.monotonic()
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
            return self._answer(start + REQUEST_SECONDS)
        except OSError:
            return Lost("the start", self._ended())
        finally:
            self._busy += time.monotonic() - start

    def _answer(self, until: float) -> Any | Lost:
        at = "the start"
        try:
            while True:
                match self._read(min(self.seconds, until - time.monotonic())):
                    case {"at": str(case)}:
                        at = case
                    case {"result": result}:
                        return result
                    case {"failed": str(why)}:
                        return Lost(at, f"failed in the harness ({why})", harmless=True)
                    case {"refused": str(event)}:
                        return Lost(at, f"tried what no verification may do ({event})", harmless=True)
                    case None:
                        return Lost(at, self._ended())
                    case _:
                        self.stop()
                        return Lost(at, "sent an invalid answer", harmless=True)
        except queue.Empty:
            self.stop()
            limit = self.seconds if time.monotonic() < until else REQUEST_SECONDS
            return Lost(at, f"did not end within {limit:g} s")

    def stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        self._leave_folder()

    def _start(self) -> subprocess.Popen[bytes]:
        package = str(Path(__file__).resolve().parents[1] / "__init__.py")
        path = libraries.path()
        readable = [*libraries.readable(path)] if self.kind == "fixtures" else []
        self._folder = tempfile.mkdtemp(prefix="clipcheck-")
        arguments = json.dumps([package, self.kind, self.seconds + GRACE_SECONDS, path, readable])
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", _BOOT, arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=_environment(self._folder),
            cwd=self._folder,
            start_new_session=True,  # so that its children can be killed with it
        )
        self._process, self._lines, self._busy = process, queue.Queue(LINES_MOST), 0.0
        threading.Thread(target=_pump, args=(process, self._lines), daemon=True).start()
        try:
            hello = self._read(START_SECONDS)
        except queue.Empty:
            hello = None
        match hello:
            case {"ready": True}:
                if sys.platform != "win32":
                    self._leave_folder()  # delete the folder now: nothing can be written to it, and nothing is left over
                return process
            case {"missing": missing}:
                self.stop()
                raise NoTorch(f"torch cannot be imported ({missing}): {extras.command('torch')}")
        self.stop()
        raise NoTorch("torch does not load: the process that imports it ended or hangs")

    def _read(self, seconds: float) -> Any:
        """The next message, None when the process has ended. Raises queue.Empty after `seconds`."""
        line = self._lines.get(timeout=max(seconds, 0.0))
        if not line:
            return None
        try:
            return json.loads(line)
        except (ValueError, RecursionError):
            return "nonsense"

    def _ended(self) -> str:
        process = self._process
        code = process.wait() if process else 0
        self.stop()
        return f"was killed by signal {-code}" if code < 0 else f"ended the process with status {code}"

    def _leave_folder(self) -> None:
        with contextlib.suppress(OSError):
            os.rmdir(self._folder)


def _environment(folder: str) -> dict[str, str]:
    """A minimal environment: Windows cannot start Python without SYSTEMROOT, and the home folder is an empty one."""
    own = {key: os.environ[key] for key in ("SYSTEMROOT",) if key in os.environ}
    return own | dict.fromkeys(("HOME", "USERPROFILE", "TMPDIR", "TEMP", "TMP"), folder)


def _pump(process: subprocess.Popen[bytes], lines: queue.Queue[bytes]) -> None:
    """Forwards the lines of the process, and an empty one at its end; kills a process that writes too much."""
    assert process.stdout is not None
    read = process.stdout.readline
    try:
        for line in iter(lambda: read(LINE_MOST), b""):
            lines.put_nowait(line)
    except queue.Full:
        process.kill()
    except ValueError:  # the pipe is closed when the worker is stopped
        return
    lines.put(b"")
