"""The import lines of a program: which of them form a block, what they import, and how they are sorted."""

from __future__ import annotations

import sys
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias, TypeGuard, cast

import libcst as cst

from clipcheck.python.names import dotted
from clipcheck.python.source import Source, Statement

Line: TypeAlias = cst.SimpleStatementLine
_Key: TypeAlias = "tuple[str | int, ...]"


def is_import(statement: cst.CSTNode) -> TypeGuard[Line]:
    """Whether a statement is a line with nothing but imports."""
    return isinstance(statement, Line) and all(
        isinstance(small, (cst.Import, cst.ImportFrom)) for small in statement.body
    )


def runs(body: Sequence[cst.CSTNode]) -> list[list[Line]]:
    """The import lines of a block, in runs without other statements in between."""
    runs: list[list[Line]] = [[]]
    for statement in body:
        if is_import(statement):
            runs[-1].append(statement)
        elif runs[-1]:
            runs.append([])
    return [run for run in runs if run]


def import_lines(body: Sequence[cst.CSTNode]) -> list[Line]:
    """The import lines of a block."""
    return [line for run in runs(body) for line in run]


def split(source: Source, run: Sequence[Line]) -> list[list[Line]]:
    """A run of import lines, split at blank lines."""
    blocks: list[list[Line]] = []
    for line in run:
        blank = any(empty.comment is None for empty in line.leading_lines)
        if blank or not blocks:
            blocks.append([])
        blocks[-1].append(line)
    return blocks


def block_of(source: Source, statement: Statement) -> list[Line]:
    """The import lines around one of them, up to a blank line or another statement."""
    siblings, index = source.siblings(statement)
    for run in runs(siblings):
        for lines in split(source, run):
            if any(line is siblings[index] for line in lines):
                return lines
    return []


def modules(statement: Line) -> Iterator[str]:
    """The modules that a line imports from; relative ones begin with dots."""
    return (module for small in statement.body for module in modules_of(small))


def modules_of(small: cst.CSTNode) -> Iterator[str]:
    match small:
        case cst.Import(names=names):
            yield from (dotted(alias.name) for alias in names)
        case cst.ImportFrom(module=module, relative=dots):
            yield "." * len(dots) + (dotted(module) if module else "")


def root(module: str) -> str:
    """The top package of a module; empty for a relative one."""
    return module.partition(".")[0]


def imports_torch(line: Line) -> bool:
    return "torch" in map(root, modules(line))


def is_relative(line: Line) -> bool:
    return next(modules(line)).startswith(".")


def is_standard(line: Line) -> bool:
    """Whether a line imports only from the standard library."""
    return set(map(root, modules(line))) <= sys.stdlib_module_names


def is_from_future(line: Line) -> bool:
    return "__future__" in modules(line)


# --- order ------------------------------------------------------------------------------------------------------------


def _module_of(small: cst.CSTNode) -> tuple[str, bool]:
    """The first module that an import names, and whether it is a `from` import."""
    return next(modules_of(small)).lower(), isinstance(small, cst.ImportFrom)


def _imports_first(small: cst.CSTNode) -> _Key:
    """isort's default order: `import x` before `from x import y`."""
    module, is_from = _module_of(small)
    return int(is_from), module


def _modules_first(small: cst.CSTNode) -> _Key:
    """The order of isort's `force_sort_within_sections`."""
    module, is_from = _module_of(small)
    return module, int(is_from)


def parsed(text: str) -> Line:
    """Parses an import."""
    return cast("Line", cst.parse_statement(text))


_ORDERS: tuple[Callable[[cst.CSTNode], _Key], ...] = (_imports_first, _modules_first)


def place_among(lines: Sequence[Line], text: str) -> int | None:
    """The index of the import line before which a new one goes; None if the lines are not sorted."""
    first = max((index + 1 for index, line in enumerate(lines) if is_from_future(line)), default=0)
    for key in _ORDERS:
        keys = [key(line.body[0]) for line in lines]
        if keys == sorted(keys):
            return max(first, bisect_left(keys, key(parsed(text).body[0])))
    return None
