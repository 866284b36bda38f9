"""Where in the user's code a call comes from."""

from __future__ import annotations

import os
import sys
import sysconfig
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from traceback import walk_stack

import torch


@dataclass(frozen=True)
class Site:
    """A line of the user's code, and the library's line through which it makes the call, empty if it does so itself.

    `hook` is the library's line that calls the user's code, and the function that it calls; empty without one.
    """

    file: str
    line: int
    function: str
    through: str = ""
    hook: str = ""

    def __str__(self) -> str:
        through = f" (through {self.through})" if self.through else ""
        path = Path(self.file)
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        return f"{shown}:{self.line}{through}"


NOWHERE = Site("", 0, "")
_FOLDERS = (Path(torch.__file__).resolve().parent, Path(__file__).resolve().parents[1])
_INSIDE = (*(os.path.join(folder, "") for folder in _FOLDERS), "<frozen")
_STANDARD = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
_INSTALLED = [
    path for path in sys.path if path.endswith(("site-packages", "dist-packages"))
]  # of the user or system, too
_PATHS = {os.path.join(path, "") for path in (*_STANDARD, *_INSTALLED)}
_PACKAGES = tuple(sorted(_PATHS, key=len, reverse=True))


def here() -> Site:
    """The innermost line outside of torch and clipcheck, and the innermost outside of all installed packages."""
    stack = ((frame.f_code.co_filename, line, frame.f_code.co_name) for frame, line in walk_stack(sys._getframe()))
    calls = (call for call in stack if not call[0].startswith(_INSIDE))
    runs = ((is_library, [*run]) for is_library, run in groupby(calls, lambda call: call[0].startswith(_PACKAGES)))
    is_library, first = next(runs, (True, []))
    library, own = (first, next(runs, (False, []))[1]) if is_library else ([], first)
    _, callers = next(runs, (True, []))
    if not own:
        return Site(*library[0]) if library else NOWHERE
    hook = f"{_short(*callers[0])} {own[-1][2]}" if callers else ""
    return Site(*own[0], _short(*library[0]) if library else "", hook)


def _short(file: str, line: int, _: str) -> str:
    """A line of an installed package, without the folder that it is installed in."""
    folder = next((folder for folder in _PACKAGES if file.startswith(folder)), "")
    return f"{file.removeprefix(folder).replace(os.sep, '/')}:{line}"
