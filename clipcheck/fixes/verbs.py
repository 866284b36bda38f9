"""The operations with which rules change code; each returns edits to the unmodified source."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable

import libcst as cst

from clipcheck.python.source import Source, Statement
from clipcheck.rule import Edit

_COMMENT = re.compile(r"#[^\r\n]*")


def replace(source: Source, node: cst.CSTNode, text: str) -> Edit:
    """Replaces `node` with `text`."""
    return Edit(*source.span(node), text)


def insert_after(source: Source, node: cst.CSTNode, text: str) -> Edit:
    """Inserts `text` right after `node`, on the same line."""
    end = source.span(node)[1]
    return Edit(end, end, text)


def insert_before(source: Source, node: cst.CSTNode, text: str) -> Edit:
    """Inserts `text` right before `node`, on the same line."""
    start = source.span(node)[0]
    return Edit(start, start, text)


def indentation(source: Source, statement: Statement) -> str:
    """The whitespace before the first token of the statement's first line."""
    start = source.span(statement)[0]
    line = source.line_starts[source.line_at(start) - 1]
    return source.text[line:start]


def lines_of(source: Source, statement: Statement) -> tuple[int, int]:
    """The whole lines of a statement, decorators included, up to and including the newline of the last one."""
    end = source.span(statement)[1]
    first = source.line_starts[source.line_at(_start(source, statement)) - 1]
    last = source.line_at(end)
    stop = source.line_starts[last] if last < len(source.line_starts) else len(source.text)
    return first, stop


def _start(source: Source, statement: Statement) -> int:
    match statement:
        case cst.FunctionDef(decorators=[first, *_]) | cst.ClassDef(decorators=[first, *_]):
            return source.span(first)[0]
    return source.span(statement)[0]


def with_comments(source: Source, statement: Statement) -> tuple[int, int]:
    """The lines of a statement together with the comment lines right above it."""
    start, stop = lines_of(source, statement)
    line = source.line_at(start) - 1
    margin = indentation(source, statement)
    while line > 0:
        above = source.text[source.line_starts[line - 1] : source.line_starts[line]]
        if not above.startswith(margin + "#"):
            break
        line -= 1
    return source.line_starts[line], stop


def insert_line_before(source: Source, statement: Statement, text: str) -> Edit:
    """Inserts a line above the statement, with its indentation."""
    start = lines_of(source, statement)[0]
    return Edit(start, start, indentation(source, statement) + text + source.newline)


def insert_line_after(source: Source, statement: Statement, text: str) -> Edit:
    """Inserts a line below the statement, with its indentation."""
    stop = lines_of(source, statement)[1]
    whole = source.text[:stop].endswith(("\n", "\r"))
    line = indentation(source, statement) + text
    return Edit(stop, stop, line + source.newline if whole else source.newline + line)


def delete_lines(source: Source, statement: Statement) -> Edit:
    """Removes the lines of a statement, including comments on them, so check for these first."""
    return deletion(source, *lines_of(source, statement))


def deletion(source: Source, start: int, stop: int) -> Edit:
    """Removes whole lines, and the blank lines below that only separated them."""
    above, below = _blank_lines(source, start, -1), _blank_lines(source, stop, 1)
    blank = below if start == 0 else min(above, below)
    return Edit(start, source.line_starts[source.line_at(stop) - 1 + blank] if blank else stop, "")


def _blank_lines(source: Source, offset: int, step: int) -> int:
    """The number of blank lines right above or below the start of a line."""
    line = bisect_left(source.line_starts, offset) - (step < 0)
    count = 0
    while 0 <= line < len(source.line_starts) - 1:
        if source.text[source.line_starts[line] : source.line_starts[line + 1]].strip():
            break
        count += 1
        line += step
    return count


def with_parentheses(source: Source, node: cst.BaseExpression) -> tuple[int, int]:
    """The span of an expression including its parentheses, which a name or a call in its place does not need.

    They are excluded if they contain a comment, or if only they separate the expression from the word before.
    """
    start, end = source.outer_span(node)
    needed = source.text[start - 1 : start].isalnum() or comments_within(source, start, end)
    return source.span(node) if needed else (start, end)


# --- comments --------------------------------------------------------------------------------------------------------


def comments_within(source: Source, start: int, end: int) -> list[str]:
    return [source.text[a:b] for a, b in source.comments if start <= a < end]


def comments_of(source: Source, statement: Statement) -> list[str]:
    """The comments on the lines of a statement, which deleting it would remove."""
    return comments_within(source, *lines_of(source, statement))


def unwritten(comments: Iterable[str], text: str) -> list[str]:
    """The comments that a string does not contain yet; it does if it repeats the user's expressions."""
    written = Counter(match.group() for match in _COMMENT.finditer(text))
    left: list[str] = []
    for comment in comments:
        if written[comment]:
            written[comment] -= 1
        else:
            left.append(comment)
    return left


def comment_lines(source: Source, statement: Statement, comments: Iterable[str]) -> str:
    """Comments on their own lines, with the indentation of the statement."""
    pad = indentation(source, statement)
    return "".join(f"{pad}{comment}{source.newline}" for comment in comments)
