"""What git ignores, read from `.gitignore` and its relatives."""

from __future__ import annotations

import os

from clipcheck import disk
from clipcheck.settings.globs import Globs


class Ignores:
    """What git ignores: every `.gitignore` from the repository's root on, its `info/exclude` and the user's own file.

    Outside a repository, the files from `top` on count: one in the home folder is not meant for everything below it.
    """

    def __init__(self, top: str) -> None:
        self._of: dict[str, tuple[Globs, ...]] = {}
        self._absolute: dict[str, str] = {}  # a folder's entries are looked up one by one
        top = os.path.abspath(top)
        if not _in_repository(top):
            own = _patterns(os.path.join(top, ".gitignore"), top)
            self._of[top] = (own,) if own else ()
        # patterns that ignore the folder that the user names do not count
        self._overruled = tuple(globs for globs in self._files(os.path.dirname(top)) if globs.decides(top, True))

    def match(self, path: str, is_folder: bool) -> bool:
        """The nearest matching pattern wins; a path in an ignored folder is never looked up."""
        named, name = os.path.split(path)
        folder = self._absolute.get(named)
        if folder is None:
            folder = self._absolute[named] = os.path.abspath(named)
        for globs in reversed(self._files(folder)):
            word = None if globs in self._overruled else globs.decides_entry(folder, name, is_folder)
            if word is not None:
                return word
        return False

    def _files(self, folder: str) -> tuple[Globs, ...]:
        known = self._of.get(folder)
        if known is None:
            above = os.path.dirname(folder)
            if os.path.exists(os.path.join(folder, ".git")):
                inherited = _repositorys(folder)
            else:
                inherited = self._files(above) if above != folder else ()
            own = _patterns(os.path.join(folder, ".gitignore"), folder)
            known = self._of[folder] = (*inherited, own) if own else inherited
        return known


def _in_repository(folder: str) -> bool:
    above = os.path.dirname(folder)
    return os.path.exists(os.path.join(folder, ".git")) or (above != folder and _in_repository(above))


def _repositorys(root: str) -> tuple[Globs, ...]:
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    wide = (os.path.join(home, "git", "ignore"), os.path.join(root, ".git", "info", "exclude"))
    return tuple(globs for path in wide if (globs := _patterns(path, root)))


def _patterns(path: str, folder: str) -> Globs | None:
    try:
        lines = disk.read(path).decode("utf-8", "replace").split("\n")
    except OSError:
        return None
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    return Globs(tuple(lines), folder) if lines else None
