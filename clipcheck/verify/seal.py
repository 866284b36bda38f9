"""The second wall: what a worker's process gives up, for good, before it runs anything that it is sent.

It holds whatever the first wall let through. `confine` is what the system can forbid, `watch` what every Python can.
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
CPU_SECONDS = 900  # of a worker's whole life; the parent starts another one long before
FILES_MOST = 256

# Audit events of what changes nothing outside of the process, https://docs.python.org/3/library/audit_events.html
_QUIET = frozenset(
    "array.__new__ builtins.id object.__delattr__ object.__getattr__ object.__setattr__ sys._getframe "
    "sys._getframemodulename sys.excepthook sys.unraisablehook time.sleep".split()
)
# What loading a library raises; the fixtures, which are clipcheck's own, load libraries when they run.
_LOADING = frozenset("code.__new__ compile exec function.__new__ import marshal.loads".split())
_LISTING = frozenset("os.listdir os.scandir".split())
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Refused(BaseException):
    """The code tried something that no verification needs. `except Exception` does not catch it; the message names the event."""


def confine(readable: Sequence[str]) -> None:
    """Bounds on memory, time, files and processes, and what else the system takes away.

    Without `readable` no file can be opened any more.
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
        limit(**limits, RLIMIT_NPROC=0)  # on Linux it would count threads
        return
    from clipcheck.verify import linux

    # In this order: rules are made with open files, and the filter lets nobody set limits.
    linux.restrict_files(readable)
    limit(**limits)
    linux.filter_calls()


def limit(**limits: int) -> None:
    """Bounds, where the system has them."""
    for kind, most in limits.items():
        if resource is not None and hasattr(resource, kind):
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(getattr(resource, kind), (most, most))


def _address_space() -> int:
    """Bytes, 0 where the system does not say."""
    try:
        with open("/proc/self/statm") as sizes:
            return int(sizes.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def watch(readable: Sequence[str], compilers: frozenset[CodeType]) -> None:
    """Refuse every audit event that is not listed: only `compilers` compile and run code, only what lies below
    `readable` is read, and where that is nothing, nothing is imported either."""
    sys.addaudithook(_gate(tuple(os.path.realpath(folder) for folder in readable), compilers))


def _gate(folders: tuple[str, ...], compilers: frozenset[CodeType]) -> Callable[[str, tuple[Any, ...]], None]:
    """The hook. It looks nothing up that what it watches could replace."""
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
