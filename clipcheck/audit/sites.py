"""Where in the user's code a call comes from."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import torch


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


NOWHERE = Site("", 0, "")
_FOLDERS = (Path(torch.__file__).resolve().parent, Path(__file__).resolve().parents[1])
_INSIDE = (*(os.path.join(folder, "") for folder in _FOLDERS), "<frozen")
_PATHS = {os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "platstdlib", "purelib", "platlib")}
_PACKAGES = tuple(sorted(_PATHS, key=len, reverse=True))


def here() -> Site:
    """The innermost line outside of torch and clipcheck, and the innermost outside of all installed packages."""
    direct = site = NOWHERE
    called = ""
    frame = sys._getframe()
    while above := frame.f_back:
        frame = above
        line = Site(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name)
        if line.file.startswith(_INSIDE):
            continue
        is_library = line.file.startswith(_PACKAGES)
        if is_library and site.file:
            return site._replace(hook=f"{_short(line)} {called}")
        if not is_library:
            site, called = site if site.file else line._replace(through=_short(direct)), line.function
        direct = direct if direct.file else line
    return site if site.file else direct


def _short(site: Site) -> str:
    """A line of an installed package, without the folder that it is installed in; empty for none."""
    folder = next((folder for folder in _PACKAGES if site.file.startswith(folder)), "")
    return f"{site.file.removeprefix(folder).replace(os.sep, '/')}:{site.line}" if site.file else ""
