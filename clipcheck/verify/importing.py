"""The result of a module's imports: with everything installed, without torch, and without clipcheck.

No module is loaded. torch and clipcheck are those of the worker, or raise an ImportError; every other module is an
empty stand-in.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

from clipcheck.verify.allowed import EXCEPTIONS
from clipcheck.verify.claims import Answer
from clipcheck.verify.replay import compiled_site

# What is missing in each case; the runtime needs torch.
_CASES = {"all installed": (), "without torch": ("torch", "clipcheck"), "without clipcheck": ("clipcheck",)}


class _Loaded(NamedTuple):
    names: dict[str, object]
    raised: str = ""


class _Module:
    """Stands in for a module and for anything imported from it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __getattr__(self, name: str) -> _Module:
        return _Module(f"{self._path}.{name}")


def load(experiment: dict[str, Any], at: Callable[[str], None]) -> Answer:
    """Import both sides' modules in every case; `at` is told each case before it runs."""
    old, new = (compiled_site(experiment[side]) for side in ("before", "after"))
    count = 0
    for title, missing in _CASES.items():
        if "torch" in missing and not experiment["torch"]:
            continue
        at(f"{title}, before")
        before = _run(old, missing)
        at(f"{title}, after")
        after = _run(new, missing)
        count += 1
        why = _broken(before, after, missing)
        if why:
            return Answer(count, (), title, why)
    return Answer(count)


def _run(program: Callable[[dict[str, Any]], Callable[..., Any]], missing: Sequence[str]) -> _Loaded:
    builtins = {"__import__": _importer(missing), **EXCEPTIONS}
    try:
        _, names = program({"__builtins__": builtins})()
    except Exception as error:  # what a module raises when it is imported
        return _Loaded({}, type(error).__name__)
    return _Loaded(names)


def _importer(missing: Sequence[str]) -> Callable[..., object]:
    modules = sys.modules

    def load(name: str, space: object = None, local: object = None, wanted: object = (), level: int = 0) -> object:
        root = name.partition(".")[0]
        if level == 0 and root in missing:
            raise ModuleNotFoundError(f"No module named {root!r}")
        found: ModuleType | None = modules.get(name) if level == 0 and root in ("torch", "clipcheck") else None
        if found is None:
            return _Module(name if wanted else root)
        return found if wanted else modules[root]

    return load


def _broken(before: _Loaded, after: _Loaded, missing: Sequence[str]) -> str:
    """What fails after the fix but worked before it; "" for nothing.

    A module that needs torch may need clipcheck as well; one that works without torch must work without clipcheck.
    """
    if before.raised:
        return ""
    if after.raised:
        return "" if missing == ("clipcheck",) else f"the import raises {after.raised}"
    for name, value in before.names.items():
        if name in after.names and _is_set(value) != _is_set(after.names[name]):
            return f"`{name}` is {_shown(value)} before and {_shown(after.names[name])} after"
    return ""


def _is_set(value: object) -> object:
    """Compares what an import binds: None, True and False differ, all modules count as equal."""
    return value if value is None or isinstance(value, bool) else "a module"


def _shown(value: object) -> str:
    return str(_is_set(value))
