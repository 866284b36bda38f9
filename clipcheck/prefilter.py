"""The code of a text, function by function: where the marks of a rule must be found, other than in prose.

Python's own parser takes a tenth of the time of LibCST's, and lines are all that is asked of it.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from typing import TypeAlias

from clipcheck.catalogue import _GRAD, RULES

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


def wanted(data: bytes, codes: frozenset[str]) -> frozenset[str]:
    """Those of `codes` whose marks `data` holds. A superset test: a file that lacks a mark cannot hold the fault."""
    holds = _holder(data)
    return frozenset(
        code for first, rules in _by_first_mark(codes) if holds(first) for code, rest in rules if all(map(holds, rest))
    )


def concerned(data: bytes, codes: frozenset[str]) -> frozenset[str]:
    """As `wanted`, for a file that is going to be parsed: in its code, and some rules' marks together in a function."""
    held = wanted(data, codes)
    if not held:
        return held
    outside, inner = functions(data)
    held = wanted(b"".join((outside, *inner)), held)
    together = {code for code in held if RULES[code].together}
    around = _holder(outside)
    near: set[str] = set()
    for holds in map(_holder, (b"", *inner)):
        if near == together:
            break
        near |= {code for code in together - near if all(around(mark) or holds(mark) for mark in RULES[code].marks)}
    return held - together | near


def _holder(data: bytes) -> Callable[[bytes], bool]:
    """Answers whether `data` holds a mark, each searched for once: several rules share their marks."""
    held: dict[bytes, bool] = {}

    def holds(mark: bytes) -> bool:
        if mark not in held:
            held[mark] = _test(mark)(data)
        return held[mark]

    return holds


@cache
def _by_first_mark(codes: frozenset[str]) -> list[tuple[bytes, list[tuple[str, tuple[bytes, ...]]]]]:
    """The rules with their other marks under the first one, which most files lack: a few searches instead of fifty."""
    groups: dict[bytes, list[tuple[str, tuple[bytes, ...]]]] = {}
    for code in codes:
        first, *rest = RULES[code].marks
        if first != _GRAD and all(b"grad" in word for word in first.split(b"|")):
            first, rest = _GRAD, [first, *rest]  # three files in four lack this one, and so all of those
        groups.setdefault(first, []).append((code, tuple(rest)))
    return list(groups.items())


_WORDS = re.compile(rb"[^\\\[\]?*+^$]+")


@cache
def _test(mark: bytes) -> Callable[[bytes], bool]:
    """How to look for a mark: words between bars by a plain search, 20 times as fast as the pattern that a mark may be.

    The lines of a mark are alternatives: each is faster alone than as one pattern with all of them.
    """
    if b"\n" in mark:
        tests = [_test(line) for line in mark.split(b"\n")]
        return lambda data: any(test(data) for test in tests)
    if _WORDS.fullmatch(mark):
        words = mark.split(b"|")
        return lambda data: any(word in data for word in words)
    pattern = re.compile(mark)
    return lambda data: pattern.search(data) is not None
