"""Python that LibCST cannot parse: turns its crashes into syntax errors, and removes the code on which it fails."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import cast

import libcst as cst

from clipcheck.documents.program import LINE_END

_NOT_LINE_END = re.compile(r"[^\r\n]")
# A line with only a backslash: LibCST mistakes its indentation for that of the statement.
_LONE_BACKSLASH = re.compile(r"(?m)(?<![^\r\n])([ \t\f]*)\\(?=\r\n|\n|\r)")


def parse_module(text: str) -> cst.Module:
    """The tree of a source. Raises `libcst.ParserSyntaxError` if LibCST cannot parse it.

    LibCST also fails in other ways, for instance with an AttributeError on a newline between `async` and `for`.
    """
    try:
        return cst.parse_module(text)
    except (cst.ParserSyntaxError, RecursionError, MemoryError):
        raise
    except Exception as error:
        message = f"parser error: error at 1:0: {type(error).__name__}"
        raise cst.ParserSyntaxError(message, lines=[text], raw_line=1, raw_column=0) from error


def is_read(text: str) -> bool:
    try:
        parse_module(text)
    except cst.ParserSyntaxError:
        return False
    return True


def readable(text: str) -> str | None:
    """A valid source without the code that LibCST cannot parse, of the same length; None if that fails.

    It lacks the innermost statements that LibCST cannot parse by themselves.
    """
    joined = _LONE_BACKSLASH.sub(r"\1 ", text)
    if is_read(joined):
        return joined
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about escapes in strings do not matter here
            tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    starts = [0, *(end.end() for end in LINE_END.finditer(text)), len(text)]
    lines = [text[start:end] for start, end in pairwise(starts)]
    for first, last in _unread(lines, tree.body):
        lines[first:last] = _left_out(lines[first:last])
    left = "".join(lines)
    return left if is_read(left) else None


def _unread(lines: Sequence[str], statements: Sequence[ast.stmt]) -> Iterator[tuple[int, int]]:
    """The line ranges of the innermost statements that LibCST cannot parse."""
    for statement in statements:
        decorators = getattr(statement, "decorator_list", [])
        first = min([statement.lineno, *(decorator.lineno for decorator in decorators)]) - 1
        last = cast("int", statement.end_lineno)
        header = "if _:\n" if lines[first][:1].isspace() else ""
        if is_read(header + "".join(lines[first:last])):
            continue
        inner = list(_unread(lines, list(_below(statement))))
        yield from inner or [(first, last)]


def _below(statement: ast.AST) -> Iterator[ast.stmt]:
    """The statements directly below one, including those of its handlers and cases."""
    for child in ast.iter_child_nodes(statement):
        if isinstance(child, ast.stmt):
            yield child
        elif isinstance(child, (ast.ExceptHandler, ast.match_case)):
            yield from _below(child)


def _left_out(lines: Sequence[str]) -> list[str]:
    """Placeholder lines for a statement, each of the original length."""
    indent = len(lines[0]) - len(lines[0].lstrip(" \t\f"))
    blank = [_NOT_LINE_END.sub(" ", line) for line in lines]
    return [f"{lines[0][:indent]}_{blank[0][indent + 1 :]}", *blank[1:]]
