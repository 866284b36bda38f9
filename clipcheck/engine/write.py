"""A file replaced in one step: all of the new content or all of the old."""

from __future__ import annotations

import os


class Changed(Exception):
    """The file on disk is no longer the one that was read."""


def write(path: str, data: bytes, was: bytes) -> None:
    """Replace a file's content in one step, keeping its mode; links are followed. Raises Changed and OSError.

    A file with several hard links is written in place, since a new file would part them.
    """
    import shutil
    import tempfile

    target = os.path.realpath(path)
    with open(target, "rb") as file:
        now = file.read()
    if now != was:
        raise Changed(f"{path}: changed while clipcheck was at work, not written")
    status = os.stat(target)
    if status.st_nlink > 1:
        with open(target, "wb") as shared:
            shared.write(data)
        return
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(target), prefix=".clipcheck-")
    try:
        with os.fdopen(handle, "wb") as new:
            new.write(data)
            new.flush()
            os.fsync(new.fileno())
        shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
