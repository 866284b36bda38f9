"""Whether a project says that it depends on clipcheck: code that imports the runtime needs it wherever it runs."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from clipcheck import disk
from clipcheck.rule import RUNTIME
from clipcheck.settings.files import parse_toml
from clipcheck.settings.keys import ConfigError

NOTE = (
    f"fixed code imports `{RUNTIME}`: add `clipcheck` to your dependencies, use `--target torch`, or copy the runtime "
    "with `clipcheck vendor`"
)
# A name of a package that does not go on, as `clipcheck-plugins` does.
_NAME = r"clipcheck(?![\w.-]*[\w-])"
_LINE = re.compile(rf"^[\s\-\"']*{_NAME}", re.MULTILINE | re.IGNORECASE)
_QUOTED = re.compile(rf"[\"']\s*{_NAME}", re.IGNORECASE)
_IN_TEXTS = {"setup.py": _QUOTED, "setup.cfg": _LINE, "environment.yml": _LINE, "environment.yaml": _LINE}
_TOP = (".git", ".hg")


def adds_runtime(before: bytes, after: bytes) -> bool:
    """Whether a fixed file imports the runtime that did not before."""
    name = RUNTIME.encode()
    return name in after and name not in before


def declares_clipcheck(folder: str) -> bool:
    """Whether a project file of this folder, or of one above it in the same repository, names clipcheck."""
    if any(_names_clipcheck(path) for path in _project_files(folder)):
        return True
    above = os.path.dirname(folder)
    top = above == folder or any(os.path.exists(os.path.join(folder, name)) for name in _TOP)
    return not top and declares_clipcheck(above)


def _project_files(folder: str) -> Iterator[str]:
    try:
        names = os.listdir(folder)
    except OSError:
        return
    for name in names:
        if name == "pyproject.toml" or name in _IN_TEXTS or _is_requirements(name):
            yield os.path.join(folder, name)
        elif name == "requirements":
            yield from _requirements_in(os.path.join(folder, name))


def _requirements_in(folder: str) -> Iterator[str]:
    if os.path.isdir(folder):
        yield from (os.path.join(folder, name) for name in os.listdir(folder) if name.endswith((".txt", ".in")))


def _is_requirements(name: str) -> bool:
    return "requirements" in name and name.endswith((".txt", ".in"))


def _names_clipcheck(path: str) -> bool:
    try:
        text = disk.read(path).decode("utf-8", "replace")
    except OSError:
        return False
    name = os.path.basename(path)
    if "clipcheck" not in text.lower():
        return False
    if name == "pyproject.toml":
        return any(_LINE.match(requirement) for requirement in _requirements(text))
    return bool(_IN_TEXTS.get(name, _LINE).search(text))


def _requirements(text: str) -> Iterator[str]:
    """What a pyproject.toml requires, and what it is itself called."""
    try:
        values = parse_toml(text)
    except ConfigError:
        return
    project, tool = _table(values, "project"), _table(values, "tool")
    yield str(project.get("name", ""))
    yield from _strings(project.get("dependencies"))
    yield from _strings(project.get("optional-dependencies"))
    yield from _strings(values.get("dependency-groups"))
    for manager in ("uv", "pdm"):
        yield from _strings(_table(tool, manager).get("dev-dependencies"))
    poetry = _table(tool, "poetry")
    groups = [_table(_table(poetry, "group"), name) for name in _table(poetry, "group")]
    for owner in (poetry, *groups):
        yield from _table(owner, "dependencies")


def _table(values: dict[str, Any], key: str) -> dict[str, Any]:
    found = values.get(key)
    return found if isinstance(found, dict) else {}


def _strings(value: object) -> Iterator[str]:
    match value:
        case str():
            yield value
        case list():
            for item in value:
                yield from _strings(item)
        case dict():
            for item in value.values():
                yield from _strings(item)
