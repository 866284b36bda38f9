"""Worker processes for many files: they run no code from the current folder, and none outlives its parent.

Python's own pools start a process with the current folder first on `sys.path`, so that a `pickle.py` there would be
executed. These start in isolated mode, with the path of this process, and communicate over their standard streams.
"""

from __future__ import annotations

import os
import sys
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
from threading import Lock, Thread
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar

from clipcheck.python.limits import with_room

if TYPE_CHECKING:
    import subprocess  # imported where a worker starts: a check of a few files has none

Item = TypeVar("Item")
Result = TypeVar("Result")

# The first code of a worker; the path is an argument, since nothing may be imported before it is set.
_START = "import sys; sys.path += sys.argv[1:]; from clipcheck.engine.workers import serve; serve()"


class Died(NamedTuple):
    """The result of an item on which the worker process died."""

    how: str


class Workers:
    """Processes that apply a function to items, each one item at a time.

    They start when they are first needed and end with the `with` block. If one dies, another one takes its item; an
    item on which two have died gets the result `Died`.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._idle: list[subprocess.Popen[bytes]] = []
        self._busy: set[subprocess.Popen[bytes]] = set()
        self._lock = Lock()
        self._over = False

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._over = True
            started = [*self._idle, *self._busy]
        for process in started:
            process.kill()
        for process in started:
            process.wait()

    def each(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[Item, Result | Died]]:
        """The items with their results, in the order in which they finish; they start in the given order."""
        waiting = deque(items)
        done: SimpleQueue[tuple[Item, Result | Died] | BaseException] = SimpleQueue()

        def work() -> None:
            try:
                while True:
                    try:
                        item = waiting.popleft()
                    except IndexError:
                        return
                    done.put((item, self._apply(function, item)))
            except BaseException as error:  # otherwise the reader would wait forever
                done.put(error)

        for _ in range(min(self.count, len(items))):
            Thread(target=work, daemon=True).start()
        for _ in items:
            answer = done.get()
            if isinstance(answer, BaseException):
                raise answer
            yield answer

    def _apply(self, function: Callable[[Item], Result], item: Item) -> Result | Died:
        died = Died("")
        for _ in range(2):  # the first one may have been killed because of the memory of others
            process = self._take()
            try:
                return self._ask(process, function, item)
            except (EOFError, OSError):
                process.kill()
                died = Died(_how(process.wait()))
            finally:
                with self._lock:
                    self._busy.discard(process)
        return died

    def _ask(self, process: subprocess.Popen[bytes], function: Callable[[Item], Result], item: Item) -> Result:
        assert process.stdin is not None
        assert process.stdout is not None
        _send(process.stdin, (function, item))
        result: Result = _receive(process.stdout)
        with self._lock:
            self._idle.append(process)
        return result

    def _take(self) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._over:
                raise RuntimeError("the workers have been stopped")
            process = self._idle.pop() if self._idle else _start()
            self._busy.add(process)
        return process


def _start() -> subprocess.Popen[bytes]:
    """Starts a process with pipes: if it inherited our streams, their reader would wait after this process ends."""
    import subprocess

    command = [sys.executable, "-I", "-S", "-c", _START, *_trusted_path()]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)


def _trusted_path() -> list[str]:
    """The module path of this process without the current folder; the folder of clipcheck comes first."""
    package = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    here = os.path.realpath(os.curdir)
    return [package, *(path for path in sys.path if os.path.isabs(path) and os.path.realpath(path) != here)]


def _how(code: int) -> str:
    return f"ended by signal {-code}" if code < 0 else f"ended with exit code {code}"


def _send(stream: IO[bytes], value: object) -> None:
    import pickle

    data = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
    stream.write(len(data).to_bytes(8, "big") + data)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    import pickle

    head = stream.read(8)
    size = int.from_bytes(head, "big")
    data = stream.read(size) if len(head) == 8 else b""
    if len(head) < 8 or len(data) < size:
        raise EOFError
    return pickle.loads(data)


# --- in the worker ----------------------------------------------------------------------------------------------------


def collect_less() -> None:
    """Collects garbage less often: the trees of a few files are a million objects without cycles.

    Looking for cycles takes a third of the time of the parse."""
    import gc

    gc.set_threshold(1_000_000, 50, 50)


def serve() -> None:
    """Answers one request after the other until the parent has ended."""
    import signal

    collect_less()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes; the parent handles it
    requests: SimpleQueue[Any] = SimpleQueue()
    incoming, outgoing = sys.stdin.buffer, sys.stdout.buffer
    sys.stdin = sys.stdout = open(os.devnull, "r+")  # noqa: SIM115 - other output there would corrupt an answer

    Thread(target=_listen, args=(incoming, requests), daemon=True).start()
    with_room(lambda: _answer(requests, outgoing))


def _listen(incoming: IO[bytes], requests: SimpleQueue[Any]) -> None:
    """Ends this process as soon as the parent ends for any reason, even in the middle of a file."""
    try:
        while True:
            requests.put(_receive(incoming))
    except BaseException:
        os._exit(1)


def _answer(requests: SimpleQueue[Any], outgoing: IO[bytes]) -> None:
    while True:
        function, item = requests.get()
        try:
            _send(outgoing, function(item))
        except BrokenPipeError:
            os._exit(1)
