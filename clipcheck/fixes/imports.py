"""How code at some place can call a function: what is imported already, or the one import line that a fix adds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import libcst as cst

from clipcheck.fixes.verbs import delete_lines, insert_after, insert_line_after, lines_of, replace
from clipcheck.python.names import Scope, dotted
from clipcheck.python.source import Source, memo
from clipcheck.rule import Edit

RUNTIME = "clipcheck.runtime"
TORCH = "torch.nn.utils"


class Reached(NamedTuple):
    """How to write a function at some place: the expression, and the import edits that make it available."""

    text: str
    imports: tuple[Edit, ...]


def reach(source: Source, at: cst.CSTNode, function: str) -> Reached:
    """How code at `at` can call the target's `function` (`grad_norm`, `clip_grad_norm_`, `get_total_norm`).

    Reuses what is imported, never takes a name that stands for something else, and adds at most one import.
    """
    package = RUNTIME if source.target == "clipcheck" else TORCH
    spelled = _in_reach(source, at, package, function)
    if spelled is not None:
        return Reached(spelled, ())
    if package == TORCH:
        return Reached(f"{TORCH}.{function}", (_import_line(source, at, "import torch"),))
    if not source.is_taken(function):
        return Reached(function, (_import_from(source, at, package, function),))
    if not source.is_taken("clipcheck"):
        return Reached(f"{package}.{function}", (_import_line(source, at, f"import {package}"),))
    return Reached(
        f"clipcheck_{function}",
        (_import_line(source, at, f"from {package} import {function} as clipcheck_{function}"),),
    )


def _in_reach(source: Source, at: cst.CSTNode, package: str, function: str) -> str | None:
    """The shortest expression that already means `package.function` at this place."""
    wanted = f"{package}.{function}"
    found: list[str] = []
    here = source.scope(at)
    scope: Scope | None = here
    while scope is not None:
        for name, bindings in scope.bindings.items():
            paths = {binding.path for binding in bindings}  # empty for what is no import
            if here.owner(name) is not scope or len(paths) != 1:
                continue
            path = paths.pop()
            if path == wanted:
                found.append(name)
            elif wanted.startswith(f"{path}.") and _is_loaded(source, path, package):
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
    """Add `function` to a `from package import …` of the module's top level, or write that line."""
    for statement in _import_block(source, at):
        for small in statement.body:
            match small:
                case cst.ImportFrom(names=[*names], module=cst.CSTNode() as module) if (
                    source.code(module) == package and not small.relative
                ):
                    later = next((name for name in names if source.code(name) > function), None)
                    if later is None:
                        return insert_after(source, names[-1], f", {function}")
                    start = source.span(later)[0]
                    return Edit(start, start, f"{function}, ")
    return _import_line(source, at, f"from {package} import {function}")


def _import_line(source: Source, at: cst.CSTNode, text: str) -> Edit:
    """A new import line: after torch's imports where they stand, else after the imports at the top."""
    block = _import_block(source, at)
    if block:
        torch_lines = [line for line in block if _imports_torch(line)]
        return insert_line_after(source, (torch_lines or block)[-1], text)
    start = _after_prologue(source)
    return Edit(start, start, text + source.newline)


def _import_block(source: Source, at: cst.CSTNode) -> list[cst.SimpleStatementLine]:
    """The run of top-level import lines that holds the first import of torch, or else the first run of imports.

    Only runs that stand before `at` count: what comes later is not yet bound when it is needed.
    """
    limit = source.span(at)[0]
    before = ([line for line in run if source.span(line)[0] <= limit] for run in _import_runs(source))
    runs = [run for run in before if run]
    with_torch = [run for run in runs if any(map(_imports_torch, run))]
    return (with_torch or runs or [[]])[0]


@memo
def _import_runs(source: Source) -> list[list[cst.SimpleStatementLine]]:
    """The import lines of the top level, those with nothing between them together."""
    runs: list[list[cst.SimpleStatementLine]] = [[]]
    for statement in source.module.body:
        if isinstance(statement, cst.SimpleStatementLine) and _is_import(statement):
            runs[-1].append(statement)
        elif runs[-1]:
            runs.append([])
    return runs


def _is_import(statement: cst.SimpleStatementLine) -> bool:
    return all(isinstance(small, (cst.Import, cst.ImportFrom)) for small in statement.body)


def _imports_torch(statement: cst.SimpleStatementLine) -> bool:
    for small in statement.body:
        match small:
            case cst.Import(names=names):
                paths = [dotted(alias.name) for alias in names]
            case cst.ImportFrom(module=cst.CSTNode() as module, relative=()):
                paths = [dotted(module)]
            case _:
                continue
        if any(path.split(".")[0] == "torch" for path in paths):
            return True
    return False


def _after_prologue(source: Source) -> int:
    """Where code may begin in a text without imports: after shebang, comments and docstring."""
    match source.module.body:
        case [
            cst.SimpleStatementLine(body=[cst.Expr(value=cst.SimpleString() | cst.ConcatenatedString())]) as docstring,
            *_,
        ]:
            return lines_of(source, docstring)[1]
        case [first, *_]:
            return lines_of(source, first)[0]
    return 0


def without_unused(source: Source, start: int, end: int, added: Reached | None = None) -> tuple[Edit, ...]:
    """The import edits of a change to `text[start:end]` that takes away the last use of a function of the runtime.

    The name makes way for the one that `added` needs, or goes with its import where nothing else is imported there.
    """
    needed = added.imports if added else ()
    for node, names, alias in _runtime_names(source):
        uses = source.names.uses(source.scope(alias), dotted(alias.name))
        if not uses or any(not start <= source.span(use)[0] < end for use in uses):
            continue
        if added and needed:
            return (replace(source, alias.name, added.text),)
        statement = source.statement(node)
        if len(names) == 1 and isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1:
            return (*needed, delete_lines(source, statement))
    return needed


def _runtime_names(source: Source) -> Iterator[tuple[cst.ImportFrom, Sequence[cst.ImportAlias], cst.ImportAlias]]:
    """The names that are imported from the runtime as they are called there, each with its import."""
    for node in source.nodes(cst.ImportFrom):
        match node:
            case cst.ImportFrom(module=cst.Attribute() as module, names=[*names]) if dotted(module) == RUNTIME:
                yield from ((node, names, alias) for alias in names if alias.asname is None)
