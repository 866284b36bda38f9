"""From the paths a user names to the files that are read: walking folders, leaving out what git ignores."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

SUFFIXES = (".py", ".pyi", ".ipynb", ".md", ".markdown", ".qmd", ".rst")
# Folders that hold other people's code or build products; a user who names one of them gets it.
SKIPPED = frozenset(
    ".git .hg .svn .tox .nox .venv venv .eggs .mypy_cache .ruff_cache .pytest_cache .clipcheck_cache __pycache__ "
    "__pypackages__ node_modules site-packages build dist".split()
)


class MissingPath(Exception):
    """A path that the user named does not exist or cannot be read."""


def find(paths: Sequence[str]) -> list[str]:
    """The files to check, each once, sorted. A file named outright is taken whatever its ending. Raises MissingPath."""
    found: dict[str, None] = {}
    for path in paths:
        if os.path.isdir(path):
            found.update(dict.fromkeys(_walk(path)))
        elif os.path.isfile(path):
            found[path] = None
        else:
            raise MissingPath(f"{path}: no such file or directory")
    return sorted(found)


def _walk(top: str) -> Iterator[str]:
    for folder, folders, names in os.walk(top):
        folders[:] = sorted(name for name in folders if name not in SKIPPED)
        for name in names:
            if name.endswith(SUFFIXES):
                yield str(Path(folder, name))


class Changed(Exception):
    """The file on disk is no longer the one that was read."""


def write(path: str, data: bytes, was: bytes) -> None:
    """Replace a file's content in one step, keeping its mode; links are followed. Raises Changed and OSError.

    A file with several hard links is written in place, since a new file would part them.
    """
    target = os.path.realpath(path)
    if Path(target).read_bytes() != was:
        raise Changed(f"{path}: changed while clipcheck was at work, not written")
    status = os.stat(target)
    if status.st_nlink > 1:
        Path(target).write_bytes(data)
        return
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(target), prefix=".clipcheck-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        shutil.copymode(target, temporary)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise
