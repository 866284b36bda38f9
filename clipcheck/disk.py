"""Files on disk: only regular ones are read, and one is replaced in a single step, as it was in all but its content."""

from __future__ import annotations

import os
import re
import stat
import sys
import time
from contextlib import suppress

# With the flag, opening a named pipe does not block until somebody writes to it; Windows has none, but text files.
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
PREFIX = ".clipcheck-"
_TEMPORARY = re.compile(r"\.clipcheck-(\d+)-\w+")


class Changed(Exception):
    """The file on disk is no longer the one that was read."""


def below(path: str, folder: str = os.curdir) -> str | None:
    """A path relative to a folder that it is in, or is; None for a path elsewhere."""
    try:
        relative = os.path.relpath(path, folder)
    except ValueError:  # another drive
        return None
    return None if relative.split(os.sep)[0] == os.pardir else relative


def read(path: str) -> bytes:
    """The content of a regular file. Raises OSError, also for a folder, a pipe, a socket or a device."""
    handle = os.open(path, _READ)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(0, "not a regular file", path)
        data = os.read(handle, status.st_size + 1)
        if len(data) == status.st_size:
            return data
        with open(handle, "rb", closefd=False) as rest:  # a file that grows, or is larger than one call can read
            return data + rest.read()
    finally:
        os.close(handle)


def write(path: str, data: bytes, was: bytes) -> None:
    """Replace a file's content in one step: whatever happens, it contains all of `was` or all of `data`.

    Links are followed; owner, mode and extended attributes stay. If the file has several hard links, only this one gets the new content: writing through all of them would mean
    emptying the file first. Raises Changed, and OSError where the file is
    read-only or its owner could not be kept.
    """
    target = os.path.realpath(path)
    status = os.stat(target)
    if read(target) != was:
        raise Changed(f"{path}: changed while clipcheck was running, not written")
    if not status.st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH) or not os.access(target, os.W_OK):
        raise OSError(0, "read-only", path)
    temporary = _temporary(os.path.dirname(target))
    try:
        with open(temporary, "xb") as new:
            _take_after(target, status, temporary)
            new.write(data)
            new.flush()
            os.fsync(new.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise


def hard_links(path: str) -> int:
    """How many names a file has, 1 if that is unknown."""
    try:
        return os.stat(path).st_nlink
    except OSError:
        return 1


def sweep(folder: str, name: str) -> None:
    """Remove a file of this name if a killed `write` of ours left it in the folder."""
    found = _TEMPORARY.fullmatch(name)
    if found is None:
        return
    path = os.path.join(folder, name)
    with suppress(OSError):
        status = os.lstat(path)
        if stat.S_ISREG(status.st_mode) and not _in_use(int(found[1]), status.st_mtime):
            os.unlink(path)


def _temporary(folder: str) -> str:
    """A new name beside the file; it says whose it is, so that others can tell whether it is still in use."""
    return os.path.join(folder, f"{PREFIX}{os.getpid()}-{os.urandom(6).hex()}")


def _take_after(target: str, status: os.stat_result, temporary: str) -> None:
    """Give the new file the owner, the extended attributes and the mode of the old one, in an order that keeps them."""
    new = os.stat(temporary)
    if (new.st_uid, new.st_gid) != (status.st_uid, status.st_gid):
        try:
            os.chown(temporary, status.st_uid, status.st_gid)
        except PermissionError:
            raise OSError(0, "its owner could not be kept", target) from None
    if sys.platform == "linux":
        for name in os.listxattr(target):
            with suppress(OSError):  # some are the system's own
                os.setxattr(temporary, name, os.getxattr(target, name))
    os.chmod(temporary, stat.S_IMODE(status.st_mode))


def _in_use(process: int, since: float) -> bool:
    """Whether a temporary file's process may still be writing it."""
    if sys.platform == "win32":  # where asking whether a process exists would end it
        return time.time() - since < 3600
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
