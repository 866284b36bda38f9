"""Edit verbs: what a rule says to change a text, each giving plain edits on the unmodified source."""

from __future__ import annotations

from typing import NamedTuple

import libcst as cst

from clipcheck.python.names import dotted
from clipcheck.python.source import Source, Statement, memo
from clipcheck.rule import Edit

RUNTIME = "clipcheck.runtime"
TORCH = "torch.nn.utils"


def replace(source: Source, node: cst.CSTNode, text: str) -> Edit:
    """Put `text` where `node` stands."""
    return Edit(*source.span(node), text)


def insert_after(source: Source, node: cst.CSTNode, text: str) -> Edit:
    """Put `text` right behind `node`, on the same line."""
    end = source.span(node)[1]
    return Edit(end, end, text)


def indentation(source: Source, statement: Statement) -> str:
    """The white space before the first token of the statement's first line."""
    start = source.span(statement)[0]
    line = source.line_starts[source.line_at(start) - 1]
    return source.text[line:start]


def lines_of(source: Source, statement: Statement) -> tuple[int, int]:
    """The whole lines of a statement: from the start of its first line to behind its last line's end."""
    start, end = source.span(statement)
    first = source.line_starts[source.line_at(start) - 1]
    last = source.line_at(end)
    stop = source.line_starts[last] if last < len(source.line_starts) else len(source.text)
    return first, stop


def insert_line_before(source: Source, statement: Statement, text: str) -> Edit:
    """A line of its own above the statement, as deep as it."""
    start = lines_of(source, statement)[0]
    return Edit(start, start, indentation(source, statement) + text + source.newline)


def insert_line_after(source: Source, statement: Statement, text: str) -> Edit:
    """A line of its own below the statement, as deep as it."""
    stop = lines_of(source, statement)[1]
    whole = source.text[:stop].endswith(("\n", "\r"))
    line = indentation(source, statement) + text
    return Edit(stop, stop, line + source.newline if whole else source.newline + line)


def delete_lines(source: Source, statement: Statement) -> Edit:
    """Remove a statement with its lines; a comment on them goes too, so look first."""
    return Edit(*lines_of(source, statement), "")


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
    scope = source.scope(at)
    seen: set[str] = set()
    while scope is not None:
        for name, bindings in scope.bindings.items():
            visible = name not in seen and source.scope(at).owner(name) is scope
            seen.add(name)
            paths = {binding.path for binding in bindings}
            if not visible or len(paths) != 1 or any(binding.kind != "import" for binding in bindings):
                continue
            path = paths.pop()
            if path == wanted:
                found.append(name)
            elif wanted.startswith(f"{path}.") and _is_loaded(source, name, path, package):
                found.append(name + wanted[len(path) :])
        if scope.parent is None:
            break
        scope = scope.parent
    return min(found, key=lambda text: (text.count("."), text != function, text), default=None)


def _is_loaded(source: Source, name: str, path: str, package: str) -> bool:
    """Whether `path`, bound to `name`, gives access to `package`: `import clipcheck` alone does not load a submodule."""
    if path == package or path.startswith("torch"):
        return True
    return any(cst_name == package for node in source.nodes(cst.Import) for cst_name in _imported_modules(node))


def _imported_modules(node: cst.Import) -> list[str]:
    return [dotted(alias.name) for alias in node.names if alias.asname is None]


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
    """The offset behind shebang, comments, docstring and `__future__` imports, where code may begin."""
    offset = 0
    for index, statement in enumerate(source.module.body):
        match statement:
            case cst.SimpleStatementLine(body=[cst.Expr(value=cst.SimpleString() | cst.ConcatenatedString())]) if (
                index == 0
            ):
                offset = lines_of(source, statement)[1]
            case cst.SimpleStatementLine(body=[cst.ImportFrom(module=cst.Name("__future__"))]):
                offset = lines_of(source, statement)[1]
            case _:
                return offset or lines_of(source, statement)[0]
    return offset


def without_unused(source: Source, start: int, end: int, added: Reached | None = None) -> tuple[Edit, ...]:
    """The import edits of a change to `text[start:end]` that takes away the last use of a function of the runtime.

    The name makes way for the one that `added` needs, or goes with its import where nothing else is imported there.
    """
    needed = added.imports if added else ()
    for node in source.nodes(cst.ImportFrom):
        if isinstance(node.names, cst.ImportStar) or node.module is None or dotted(node.module) != RUNTIME:
            continue
        for alias in node.names:
            name = dotted(alias.name)
            uses = source.names.uses(source.scope(alias), name)
            if alias.asname is not None or not uses or any(not start <= source.span(use)[0] < end for use in uses):
                continue
            if added and needed:
                return (replace(source, alias.name, added.text),)
            statement = source.statement(node)
            if len(node.names) == 1 and isinstance(statement, cst.SimpleStatementLine) and len(statement.body) == 1:
                return (*needed, delete_lines(source, statement))
    return needed
