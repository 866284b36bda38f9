"""The functions of a text and what stands outside of them: the stretches in which what one function does is found.

Python's own parser takes a tenth of the time of LibCST's, and lines are all that is asked of it.
"""

from __future__ import annotations

import ast
import warnings
from collections.abc import Iterable, Iterator
from typing import TypeAlias

_Function: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef"


def functions(data: bytes) -> tuple[bytes, list[bytes]]:
    """The text outside of all functions and each outermost function or method; all is outside where it is not Python."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is wrong with the user's strings is not ours to say
            tree = ast.parse(data)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return data, []
    lines = data.splitlines(keepends=True)
    spans = sorted(_span(function) for function in _outermost(tree.body))
    starts = [0, *(stop for _, stop in spans)]
    stops = [*(start for start, _ in spans), len(lines)]
    outside = b"".join(b"".join(lines[start:stop]) for start, stop in zip(starts, stops, strict=True))
    return outside, [b"".join(lines[start:stop]) for start, stop in spans]


def _outermost(statements: Iterable[ast.stmt]) -> Iterator[_Function]:
    for statement in statements:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield statement
        else:
            blocks = (getattr(statement, field, ()) for field in ("body", "orelse", "finalbody"))
            yield from (function for block in blocks for function in _outermost(block))


def _span(function: _Function) -> tuple[int, int]:
    """The function's lines, from 0, with its decorators."""
    first = min([function.lineno, *(decorator.lineno for decorator in function.decorator_list)])
    return first - 1, function.end_lineno or function.lineno
