"""From the paths on the command line to the files to read: walks folders and skips what git ignores."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

from clipcheck import disk
from clipcheck.documents.program import MARKDOWN
from clipcheck.settings.globs import Globs
from clipcheck.settings.ignores import Ignores
from clipcheck.settings.keys import Layer, Settings
from clipcheck.settings.projects import Projects

# Markdown needs an optional package: it is searched for in folders only if that is installed. Stubs (`.pyi`) are left out:
# nothing in them runs.
SUFFIXES = (".py", ".ipynb", ".rst")


class Found(NamedTuple):
    """The files to check, sorted and without duplicates, and one line for each problem.

    Problems are paths that are not files, folders that cannot be listed, and broken links.
    """

    files: list[str]
    missing: list[str]
    errors: list[str]
    warnings: list[str]


def find(paths: Sequence[str], projects: Projects | None = None) -> Found:
    """The files to check: named ones, and those in named folders and below.

    A named file is checked whatever its extension, and skipped only with `force-exclude`.
    """
    projects = projects or Projects(Layer({}, os.getcwd()), Settings(), isolated=True)
    names: dict[str, None] = {}
    missing: list[str] = []
    errors: list[str] = []
    for path in paths:
        if os.path.isdir(path):
            names.update(dict.fromkeys(_walk(path, projects, errors)))
        elif not os.path.isfile(path):
            missing.append(f"{path}: {_what_else(path)}")
        elif not is_left_out(path, projects):
            names[path] = None
    files, dangling = _each_once(sorted(names))
    return Found(files, missing, errors, [f"{path}: broken link, skipped" for path in dangling])


def _what_else(path: str) -> str:
    if os.path.exists(path):
        return "not a regular file"
    return "broken link" if os.path.islink(path) else "no such file or directory"


def is_left_out(path: str, projects: Projects) -> bool:
    """Whether a named file is excluded by `force-exclude`."""
    project = projects.of(path)
    return bool(project.value("force-exclude", False)) and project.excludes(path)


def _each_once(paths: list[str]) -> tuple[list[str], list[str]]:
    """The regular files without duplicates, and the broken links.

    Of a link and its target, the target is kept. Hard links count as separate files: a fix separates them.
    """
    by_identity: dict[tuple[int, int], list[str]] = {}
    kept: list[str] = []
    dangling: list[str] = []
    for path in paths:
        try:
            status = os.stat(path)
        except OSError:
            # such as the lock links that Emacs puts next to an open file; for other files, reading them reports why
            (dangling if os.path.islink(path) else kept).append(path)
            continue
        if stat.S_ISREG(status.st_mode):
            by_identity.setdefault((status.st_dev, status.st_ino), []).append(path)
    for names in by_identity.values():
        kept += names if len(names) == 1 else _without_second_names(names)
    return sorted(kept), dangling


def _without_second_names(names: list[str]) -> list[str]:
    """One name per file: the shortest one without links, the first of several."""
    by_file: dict[str, str] = {}
    for name in sorted(names, key=lambda name: (os.path.realpath(name) != os.path.abspath(name), len(name))):
        by_file.setdefault(os.path.realpath(name), name)
    return list(by_file.values())


def _walk(top: str, projects: Projects, errors: list[str]) -> Iterator[str]:
    """The files below a folder; patterns that exclude the folder itself do not apply, since the user named it."""

    def cannot_list(error: OSError) -> None:
        errors.append(f"{error.filename}: cannot be read: {error.strerror}")

    suffixes = (*SUFFIXES, *MARKDOWN) if find_spec("markdown_it") else SUFFIXES
    applicable = cache(lambda globs: _without_those_for(top, globs))
    ignores = Ignores(top)
    for folder, folders, names in os.walk(top, onerror=cannot_list):
        project = projects.of(folder)
        respect = bool(project.value("respect-gitignore", True))
        excluded = [applicable(globs) for globs in project.excluded]

        def left_out(
            name: str, is_folder: bool, folder: str = folder, excluded: list[Globs] = excluded, respect: bool = respect
        ) -> bool:
            taken = any(globs.decides_entry(folder, name, is_folder) for globs in excluded)
            return taken or (respect and ignores.match(os.path.join(folder, name), is_folder))

        folders[:] = sorted(name for name in folders if not left_out(name, True))
        for name in names:
            if name.startswith(disk.PREFIX):
                disk.sweep(folder, name)
            if name.endswith(suffixes) and not left_out(name, False):
                yield os.path.normpath(os.path.join(folder, name))


def _without_those_for(top: str, globs: Globs) -> Globs:
    """The patterns that do not exclude this folder itself."""
    left = (pattern for pattern in globs.patterns if not Globs((pattern,), globs.folder).match(top, True))
    return Globs(tuple(left), globs.folder)
