"""Where in the user's code a call comes from."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import torch

_INSIDE = tuple(
    os.path.join(Path(folder).resolve(), "")
    for folder in (Path(torch.__file__).parent, Path(__file__).parent, Path(__file__).parents[1] / "runtime")
)
_PATHS = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
_PACKAGES = tuple(sorted((os.path.join(path, "") for path in _PATHS), key=len, reverse=True))


class Site(NamedTuple):
    """A line of the user's code, and the library's line through which it makes the call, empty if it does so itself."""

    file: str
    line: int
    function: str
    through: str = ""

    def __str__(self) -> str:
        through = f" (through {self.through})" if self.through else ""
        path = Path(self.file)
        shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
        return f"{shown}:{self.line}{through}"


def here() -> Site:
    """The innermost line outside of torch and clipcheck, and the innermost outside of all installed packages."""
    direct: Site | None = None
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith((*_INSIDE, "<frozen")):
            site = Site(code.co_filename, frame.f_lineno, code.co_name)
            if not code.co_filename.startswith(_PACKAGES):
                return site._replace(through=_short(direct)) if direct else site
            direct = direct or site
        frame = frame.f_back  # type: ignore[assignment]
    return direct or Site("?", 0, "")


def _short(site: Site) -> str:
    """A line of an installed package, without the folder that it is installed in."""
    folder = next(folder for folder in _PACKAGES if site.file.startswith(folder))
    return f"{site.file.removeprefix(folder).replace(os.sep, '/')}:{site.line}"
