"""Where in the user's code a call comes from."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import NamedTuple

import torch

_INSIDE = tuple(
    os.path.join(Path(folder).resolve(), "")
    for folder in (Path(torch.__file__).parent, Path(__file__).parent, Path(__file__).parents[1] / "runtime")
)
_PATHS = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
_PACKAGES = tuple(sorted((os.path.join(path, "") for path in _PATHS), key=len, reverse=True))


class Site(NamedTuple):
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


def here() -> Site:
    """The innermost line outside of torch and clipcheck, and the innermost outside of all installed packages."""
    direct = site = None
    called = ""
    for frame in _outside():
        line = Site(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        is_library = line.file.startswith(_PACKAGES)
        if site is not None and is_library:
            return site._replace(hook=f"{_short(line)} {called}")
        if not is_library:
            site, called = site or line._replace(through=_short(direct) if direct else ""), line.function
        direct = direct or line
    return site or direct or Site("?", 0, "")


def _outside() -> Iterator[FrameType]:
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if not frame.f_code.co_filename.startswith((*_INSIDE, "<frozen")):
            yield frame
        frame = frame.f_back


def _short(site: Site) -> str:
    """A line of an installed package, without the folder that it is installed in."""
    folder = next(folder for folder in _PACKAGES if site.file.startswith(folder))
    return f"{site.file.removeprefix(folder).replace(os.sep, '/')}:{site.line}"
