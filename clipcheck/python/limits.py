"""Limits on the size and depth of programs to parse, and enough stack for those within the limits.

LibCST's parser and most code that reads its trees recurse for each level of nesting, and for a chain `a.b.b…` the
parser takes quadratic time: 0.5 s for 1,000 links, 50 s for 5,000.
"""

from __future__ import annotations

import ast
import re
import sys
import threading
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar, cast

from clipcheck.documents.program import LINE_END
from clipcheck.python.parts import MAX_CHARACTERS, NoTree, tree_of

T = TypeVar("T")

# Handwritten code has up to 30 levels, generated code 300.
MAX_DEPTH = 1_200
# Python itself allows no more nested brackets.
MAX_BRACKETS = 200
# Enough stack for several times MAX_DEPTH levels; memory is only used as needed.
STACK_BYTES = 512 * 1024 * 1024
FRAMES = 30_000

_here = threading.local()
_BRACKET = re.compile(r"[()\[\]{}]")
_LONG_LINE = re.compile(r"[^\r\n]{5000}")
_NEXT_STRING = re.compile(r"""["']\s+(?:\\\r?\n\s*)?[A-Za-z]{0,2}["']""")


class Excess(NamedTuple):
    """What exceeds a limit in a source, and its offset."""

    at: int
    message: str


def excess(text: str) -> Excess | None:
    """Why a source is not parsed; None if it can be."""
    match tree_of(text):
        case NoTree.LARGE:
            return Excess(0, f"too large to be analyzed: {len(text):,} characters, the limit is {MAX_CHARACTERS:,}")
        case NoTree.DEEP:
            return Excess(0, "nested too deeply to be analyzed")
        case NoTree.FAULTY:
            return _excess_unparsed(text)
        case tree:
            return _excess_parsed(tree, text)


def _excess_parsed(tree: ast.Module, text: str) -> Excess | None:
    starts = [0, *(end.end() for end in LINE_END.finditer(text)), len(text)]
    deep = _deep_statement(tree, text, starts)
    if deep is None:
        return None
    return Excess(starts[deep.lineno - 1], f"nested too deeply to be analyzed: more than {MAX_DEPTH:,} levels")


def _deep_statement(tree: ast.Module, text: str, starts: list[int]) -> ast.stmt | None:
    """The first statement with too many levels; only those that are long enough for that are inspected."""
    pending: list[tuple[ast.AST, int, ast.stmt]] = [(statement, 1, statement) for statement in tree.body]
    while pending:
        node, level, around = pending.pop()
        if isinstance(node, ast.stmt):
            around = node
            length = starts[cast("int", node.end_lineno)] - starts[node.lineno - 1]
            if length + level < MAX_DEPTH:
                continue  # each level takes at least a character
        deeper = level + 1 + _levels_in_one(node, text, starts)
        if deeper > MAX_DEPTH:
            return around
        pending += ((child, deeper, around) for child in ast.iter_child_nodes(node))
    return None


def _levels_in_one(node: ast.AST, text: str, starts: list[int]) -> int:
    """The levels of LibCST for one node of Python's tree; they take it about half as much time as others."""
    match node:
        case ast.BoolOp(values=values):
            return len(values) // 2
        case ast.Constant(value=str() | bytes()) | ast.JoinedStr():
            written = text[starts[node.lineno - 1] : starts[cast("int", node.end_lineno)]]
            return len(_NEXT_STRING.findall(written)) // 2 if len(written) > MAX_DEPTH else 0
    return 0


def _excess_unparsed(text: str) -> Excess | None:
    """Like `excess`, for a source that Python rejects: by its brackets and by the length of its lines."""
    depth = 0
    for bracket in _BRACKET.finditer(text):
        depth = depth + 1 if bracket.group() in "([{" else max(depth - 1, 0)
        if depth > MAX_BRACKETS:
            return Excess(bracket.start(), f"nested too deeply to be analyzed: more than {MAX_BRACKETS} open brackets")
    long = _LONG_LINE.search(text)
    return None if long is None else Excess(long.start(), "not valid Python, and a line is too long to find out why")


class _Call(Generic[T]):
    """A call in a separate thread, with its result or error."""

    result: T
    error: BaseException | None = None

    def __init__(self, function: Callable[[], T]) -> None:
        self._function = function

    def run(self) -> None:
        _here.has_room = True
        try:
            self.result = self._function()
        except BaseException as error:
            self.error = error


def with_room(function: Callable[[], T]) -> T:
    """Calls `function` with a stack that is large enough for MAX_DEPTH levels of nesting, and returns its result.

    This takes a thread; in that thread, further calls are direct.
    """
    if getattr(_here, "has_room", False):
        return function()
    call = _Call(function)
    size, frames = threading.stack_size(), sys.getrecursionlimit()
    try:
        threading.stack_size(STACK_BYTES)
        thread = threading.Thread(target=call.run, daemon=True)
        sys.setrecursionlimit(max(frames, FRAMES))
        thread.start()
    except (ValueError, RuntimeError):  # the system does not allow a stack of this size
        sys.setrecursionlimit(frames)
        return function()
    finally:
        threading.stack_size(size)
    try:
        thread.join()
    finally:
        sys.setrecursionlimit(frames)
    if call.error is not None:
        raise call.error
    return call.result
