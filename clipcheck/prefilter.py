"""The code of a text, function by function: where the marks of a rule must be found, other than in prose.

Python's own parser takes a tenth of the time of LibCST's, and lines are all that is asked of it.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from typing import TypeAlias

_Function: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef"
_Documented: TypeAlias = "ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef"

_COMMENT = re.compile(rb"(?m)^[ \t]*#[^\r\n]*")


def functions(data: bytes) -> tuple[bytes, list[bytes]]:
    """The code outside of all functions, and each outermost function or method, without docstrings and comment lines.

    All that is not Python is outside.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with the user's strings is not ours to say
            tree = ast.parse(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return data, []
    lines = data.splitlines(keepends=True)
    spans = []
    for node in _parts(tree):
        for line in _docstring(node):
            lines[line] = b"\n"
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            spans.append(_span(node))
    spans.sort()
    starts = [0, *(stop for _, stop in spans)]
    stops = [*(start for start, _ in spans), len(lines)]
    outside = b"".join(b"".join(lines[start:stop]) for start, stop in zip(starts, stops, strict=True))
    inside = (b"".join(lines[start:stop]) for start, stop in spans)
    return _COMMENT.sub(b"", outside), [_COMMENT.sub(b"", function) for function in inside]


def _parts(node: ast.AST) -> Iterator[_Documented]:
    """The module, its classes, and the functions that stand in no other function."""
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        yield node
    if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        for field in ("body", "orelse", "finalbody"):
            for statement in getattr(node, field, ()):
                if isinstance(statement, ast.stmt):
                    yield from _parts(statement)


def _docstring(node: _Documented) -> range:
    """The lines, from 0, that hold a docstring and nothing else."""
    match node.body:
        case [ast.Expr(value=ast.Constant(value=str())) as text, *rest]:
            last = text.end_lineno or text.lineno
            alone = text.lineno > getattr(node, "lineno", 0) and not (rest and rest[0].lineno <= last)
            return range(text.lineno - 1, last) if alone else range(0)
    return range(0)


def _span(function: _Function) -> tuple[int, int]:
    """The function's lines, from 0, with its decorators."""
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    return first - 1, function.end_lineno or function.lineno
