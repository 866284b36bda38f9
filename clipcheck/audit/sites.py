"""Where in the user's code a call comes from."""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

import torch

_INSIDE = tuple(
    str(Path(folder).resolve()) + ("/" if sys.platform != "win32" else "\\")
    for folder in (Path(torch.__file__).parent, Path(__file__).parent, Path(__file__).parents[1] / "runtime")
)
_PACKAGES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})


class Site(NamedTuple):
    """A line of the user's code, and the library's line through which it makes the call, empty if it does so itself."""

    file: str
    line: int
    function: str
    through: str = ""

    def __str__(self) -> str:
        through = f" (through {self.through})" if self.through else ""
        return f"{shown(self.file)}:{self.line}{through}"


def shown(file: str) -> str:
    """A path relative to the current folder where it is below it."""
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file


def here() -> Site:
    """The innermost line outside of torch and clipcheck, and the innermost outside of all installed packages."""
    direct: Site | None = None
    frame = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        if not code.co_filename.startswith(_INSIDE) and not code.co_filename.startswith("<frozen"):
            site = Site(code.co_filename, frame.f_lineno, code.co_name)
            if not code.co_filename.startswith(_PACKAGES):
                return site if direct is None else site._replace(through=_short(direct))
            direct = direct or site
        frame = frame.f_back  # type: ignore[assignment]
    return direct or Site("?", 0, "")


def _short(site: Site) -> str:
    """A line of an installed package, without the folder that it is installed in."""
    for folder in sorted(_PACKAGES, key=len, reverse=True):
        if site.file.startswith(folder):
            return f"{Path(site.file).relative_to(folder).as_posix()}:{site.line}"
    return f"{site.file}:{site.line}"
