"""From the paths a user names to the files that are read: walking folders, leaving out what git ignores."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

from clipcheck.documents.read import MARKDOWN
from clipcheck.settings.globs import Globs
from clipcheck.settings.keys import Layer, Settings
from clipcheck.settings.projects import Project, Projects

# Markdown is read by a package that is an extra: folders are searched for it only where that is installed.
SUFFIXES = (".py", ".pyi", ".ipynb", ".rst")


class MissingPath(Exception):
    """A path that the user named does not exist or cannot be read."""


def find(paths: Sequence[str], projects: Projects | None = None) -> list[str]:
    """The files to check, each once, sorted. Raises MissingPath.

    A file named outright is taken whatever its ending, and left out only under `force-exclude`.
    """
    projects = projects or Projects(Layer({}, os.getcwd()), Settings(), isolated=True)
    found: dict[str, None] = {}
    for path in paths:
        if os.path.isdir(path):
            found.update(dict.fromkeys(_walk(path, projects)))
        elif not os.path.exists(path):
            raise MissingPath(f"{path}: no such file or directory")
        elif not is_left_out(path, projects):
            found[path] = None
    return sorted(found)


def is_left_out(path: str, projects: Projects) -> bool:
    """Whether a file that the user names is excluded by force."""
    project = projects.of(path)
    return bool(project.value("force-exclude", False)) and project.excludes(path)


def _walk(top: str, projects: Projects) -> Iterator[str]:
    """The files below a folder; what excludes the folder itself does not hold, since the user asks for it."""
    suffixes = (*SUFFIXES, *MARKDOWN) if find_spec("markdown_it") else SUFFIXES
    overruled = [globs for globs in projects.of(top).excluded if globs.match(top, True)]
    ignores = Ignores(top)
    for folder, folders, names in os.walk(top):
        project = projects.of(folder)
        respect = bool(project.value("respect-gitignore", True))

        def left_out(
            name: str, is_folder: bool, folder: str = folder, project: Project = project, respect: bool = respect
        ) -> bool:
            path = os.path.join(folder, name)
            taken = any(globs.takes_entry(path, is_folder) for globs in project.excluded if globs not in overruled)
            return taken or (respect and ignores.match(path, is_folder))

        folders[:] = sorted(name for name in folders if not left_out(name, True))
        for name in names:
            if name.endswith(suffixes) and not left_out(name, False):
                yield os.path.normpath(os.path.join(folder, name))


class Ignores:
    """What git ignores: every `.gitignore` from the repository's root on, its `info/exclude` and the user's own file.

    Outside of a repository the files from `top` on count: one in the home folder is not meant for what lies there.
    """

    def __init__(self, top: str) -> None:
        self._of: dict[str, tuple[Globs, ...]] = {}
        top = os.path.abspath(top)
        if not _in_repository(top):
            own = _patterns(os.path.join(top, ".gitignore"), top)
            self._of[top] = (own,) if own else ()
        # what ignores the folder that the user names has no say in it
        self._overruled = tuple(globs for globs in self._files(os.path.dirname(top)) if globs.decides(top, True))

    def match(self, path: str, is_folder: bool) -> bool:
        """The nearest file that has a word on it decides; a path whose folder is ignored is not asked for."""
        absolute = os.path.abspath(path)
        for globs in reversed(self._files(os.path.dirname(absolute))):
            word = None if globs in self._overruled else globs.decides(absolute, is_folder)
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
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.rstrip("\n") for line in file]
    except OSError:
        return None
    lines = [line for line in lines if line.strip() and not line.startswith("#")]
    return Globs(tuple(lines), folder) if lines else None


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
