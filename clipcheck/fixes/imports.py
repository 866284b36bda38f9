"""How code at a place can call a function: through an existing import, or through one that a fix adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import libcst as cst

from clipcheck.fixes.import_lines import import_line, is_for_checkers, lines_before
from clipcheck.python.names import Scope, dotted
from clipcheck.python.source import Source
from clipcheck.rule import TORCH, Edit


class Reached(NamedTuple):
    """How to refer to a function at a place: the expression, and the import edits that make it available."""

    text: str
    imports: tuple[Edit, ...]


def reach(source: Source, at: cst.CSTNode, function: str) -> Reached:
    """How code at `at` can call the target's `function` (`grad_norm`, `clip_grad_norm_`, `get_total_norm`).

    Reuses what is imported, never uses a name that means something else, and adds at most one import.
    """
    package = source.package
    spelled = _in_reach(source, at, package, function)
    if spelled is not None:
        return Reached(spelled, ())
    if package == TORCH:
        return Reached(f"{TORCH}.{function}", (import_line(source, at, "import torch"),))
    if is_free(source, at, function, f"{package}.{function}") and not _may_hide(source):
        return Reached(function, (_import_from(source, at, package, function),))
    root = package.partition(".")[0]
    if is_free(source, at, root, root):
        return Reached(f"{package}.{function}", (import_line(source, at, f"import {package}"),))
    return Reached(
        f"clipcheck_{function}",
        (import_line(source, at, f"from {package} import {function} as clipcheck_{function}"),),
    )


def is_free(source: Source, at: cst.CSTNode, name: str, path: str) -> bool:
    """Whether code at `at` can use this name for an import from `path`: it means nothing else in the file.

    Functions may import the same thing locally, and methods may have the same name: only their class sees them.
    """
    here = source.scope(at)
    scopes = [
        scope for scope in source.names.scopes.values() if scope is here or not isinstance(scope.node, cst.ClassDef)
    ]
    bindings = [binding for scope in scopes for binding in scope.bindings.get(name, [])]
    declared = any(name in scope.elsewhere for scope in scopes) or source.names.from_star(name) is not None
    return not declared and not source.names.uses(None, name) and all(binding.path == path for binding in bindings)


def _may_hide(source: Source) -> bool:
    """Whether an `import *` may rebind a name after the import that a fix adds; the names of torch's are known."""
    return not all(module.startswith("torch") for module in source.names.stars)


def _in_reach(source: Source, at: cst.CSTNode, package: str, function: str) -> str | None:
    """The shortest expression that already means `package.function` at this place."""
    wanted = f"{package}.{function}"
    found: list[str] = []
    here = source.scope(at)
    scope: Scope | None = here
    while scope is not None:
        for name, bindings in scope.bindings.items():
            paths = {binding.path for binding in bindings}  # empty if it is not an import
            if here.owner(name) is not scope or len(paths) != 1:
                continue
            path = paths.pop()
            if wanted != path and not wanted.startswith(f"{path}."):
                continue
            if all(is_for_checkers(source, binding.node) for binding in bindings):
                continue
            if path == wanted:
                found.append(name)
            elif _is_loaded(source, path, package):
                found.append(name + wanted[len(path) :])
        scope = scope.parent
    return min(found, key=lambda text: (text.count("."), text != function, text), default=None)


def _is_loaded(source: Source, path: str, package: str) -> bool:
    """Whether an import of `path` gives access to `package`: `import clipcheck` alone does not load a submodule."""
    if path == package or path.startswith("torch"):
        return True
    return any(
        alias.asname is None and dotted(alias.name) == package
        for node in source.nodes(cst.Import)
        for alias in node.names
    )


def _import_from(source: Source, at: cst.CSTNode, package: str, function: str) -> Edit:
    """Adds `function` to a `from package import …` that has run before `at`, or adds such a line."""
    for statement in lines_before(source, at):
        for small in statement.body:
            match small:
                case cst.ImportFrom(names=[*names], module=cst.CSTNode() as module) if (
                    source.code(module) == package and not small.relative
                ):
                    return added_to(source, names, function)
    return import_line(source, at, f"from {package} import {function}")


def added_to(source: Source, names: Sequence[cst.ImportAlias], function: str) -> Edit:
    """Adds a name to an import; on a separate line if the others are, as parentheses allow."""
    later = next((name for name in names if source.code(name) > function), None)
    beside = later or names[-1]
    start = source.span(beside)[0]
    line = source.line_starts[source.line_at(start) - 1]
    pad = source.text[line:start]
    statement = source.enclosing(beside, cst.ImportFrom)
    parenthesized = isinstance(statement, cst.ImportFrom) and statement.lpar is not None
    gap = source.newline + pad if parenthesized and not pad.strip() else " "
    if later is None:
        end = source.span(beside.asname.name if beside.asname else beside.name)[1]
        return Edit(end, end, f",{gap}{function}")
    return Edit(start, start, f"{function},{gap}")
