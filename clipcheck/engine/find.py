"""From the paths a user names to the files that are read: walking folders, leaving out what git ignores."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

from clipcheck.documents.program import MARKDOWN
from clipcheck.settings.ignores import Ignores
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
