"""The second line of defense: rights that a worker process permanently gives up before it runs any code it is sent.

It stops what the allowlist should have. `confine` applies what the system can forbid, `watch` what every Python can.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from types import CodeType
from typing import Any

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

MEMORY_BYTES = 4 << 30
CPU_SECONDS = 900  # for the whole life of a worker; the parent replaces it long before
FILES_MOST = 256

# Audit events of actions that change nothing outside the process, https://docs.python.org/3/library/audit_events.html
_QUIET = frozenset(
    "array.__new__ builtins.id object.__delattr__ object.__getattr__ object.__setattr__ sys._getframe "
    "sys._getframemodulename sys.excepthook sys.unraisablehook time.sleep".split()
)
# Events of loading a library; the fixtures, which come with clipcheck, load libraries when they run.
_LOADING = frozenset("code.__new__ compile exec function.__new__ import marshal.loads".split())
_LISTING = frozenset("os.listdir os.scandir".split())
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Refused(BaseException):
    """The code tried what no verification needs; the message names it. `except Exception` does not catch this."""


def confine(readable: Sequence[str]) -> None:
    """Limits memory, time, files and processes, and gives up whatever else the system can take away.

    Without `readable`, no file can be opened after this.
    """
    taken = _address_space()
    limits = {
        **({"RLIMIT_AS": taken + MEMORY_BYTES} if taken else {}),
        "RLIMIT_DATA": MEMORY_BYTES,
        "RLIMIT_CPU": CPU_SECONDS,
        "RLIMIT_CORE": 0,
        "RLIMIT_FSIZE": 0,
        "RLIMIT_NOFILE": FILES_MOST if readable else 0,
    }
    if sys.platform != "linux":
        limit(**limits, RLIMIT_NPROC=0)  # on Linux this would count threads
        return
    from clipcheck.verify import linux

    # The order matters: file rules need open files, and the filter forbids setting limits.
    linux.restrict_files(readable)
    limit(**limits)
    linux.filter_calls()


def limit(**limits: int) -> None:
    """Sets limits that the system supports."""
    for kind, most in limits.items():
        if resource is not None and hasattr(resource, kind):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(getattr(resource, kind), (most, most))


def _address_space() -> int:
    """The size in bytes; 0 if the system does not report it."""
    try:
        with open("/proc/self/statm") as sizes:
            return int(sizes.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def watch(readable: Sequence[str], compilers: frozenset[CodeType]) -> None:
    """Refuses every audit event that is not listed.

    Only `compilers` may compile and run code, and only files below `readable` are read; if that is empty, nothing can
    be imported either."""
    sys.addaudithook(_gate(tuple(os.path.realpath(folder) for folder in readable), compilers))


def _gate(folders: tuple[str, ...], compilers: frozenset[CodeType]) -> Callable[[str, tuple[Any, ...]], None]:
    """The hook. It uses no name that the watched code could replace."""
    quiet = _QUIET | _LOADING if folders else _QUIET
    listing, writes, refused, below, frame = _LISTING, _WRITES, Refused, _below, sys._getframe

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in quiet:
            return
        if event in ("compile", "exec") and frame(1).f_code in compilers:
            return
        reading = event in listing or (event == "open" and not args[2] & writes)
        if not (reading and below(args[0], folders)):
            raise refused(f"{event} {args[0] if args else ''}")

    return hook


def _below(path: object, folders: tuple[str, ...]) -> bool:
    if not isinstance(path, (str, bytes)) or not os.path.isabs(path):
        return False
    real = os.path.realpath(os.fsdecode(path))
    return any(real == folder or real.startswith(folder + os.sep) for folder in folders)
