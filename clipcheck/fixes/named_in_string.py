"""Functions that a program names in a string: those that a test patches or `getattr` looks up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import libcst as cst

from clipcheck.python.names import canonical, last_name
from clipcheck.python.source import Source

# Calls that patch a function: `mock.patch("a.b.c")`, `mocker.patch.object(a.b, "c")`, `monkeypatch.setattr(…)`.
_PATCHES = frozenset({"patch", "object", "setattr", "delattr", "spy", "stub"})
# Calls that return the object at a dotted path.
_LOOK_UP = frozenset({"getattr", "locate", "resolve_name", "import_string", "import_from_string", "attrgetter"})


class Named(NamedTuple):
    """A string that names a function, and whether the function is replaced there: other uses must see the patch."""

    string: cst.SimpleString
    patched: bool
    may_lack: bool  # whether the program continues if there is no such function


def named_in_strings(source: Source, module: str, function: str) -> Iterator[Named]:
    """The strings by which `module.function` is patched or looked up."""
    for call in source.nodes(cst.Call):
        name = last_name(call.func)
        if name in _PATCHES or name in _LOOK_UP:
            string = _named(source, call, module, function)
            if string is not None and not _is_own_patch(source, call):
                yield Named(string, name in _PATCHES, name == "getattr" and len(call.args) > 2)


def _named(source: Source, call: cst.Call, module: str, function: str) -> cst.SimpleString | None:
    match call.args:
        case [cst.Arg(value=cst.SimpleString(evaluated_value=str(path)) as string), *_]:
            return string if canonical(path) == f"{module}.{function}" else None
        case [cst.Arg(value=owner), cst.Arg(value=cst.SimpleString(evaluated_value=str(name)) as string), *_]:
            origin = source.qualified(owner)
            inside = origin is not None and canonical(f"{origin}.{name}") == f"{module}.{function}"
            return string if inside else None
    return None


def _is_own_patch(source: Source, call: cst.Call) -> bool:
    """Whether a program replaces torch's function with its own, which may well be a workaround."""
    return source.qualified(call.func) in ("builtins.setattr", "builtins.delattr")
