"""Parses a program; if parts are not Python, reports where and why, and continues after the error."""

from __future__ import annotations

import ast
import math
import re
import warnings
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import libcst as cst

from clipcheck.documents.program import LINE_END, Program
from clipcheck.python import unread
from clipcheck.python.source import Source
from clipcheck.rule import Target

# How many lines may be skipped at once: a Python 2 file has a `print` on many.
MAX_FAULTS = 50
# How many changed lines are assumed to be what the user is typing: two edits far apart span many lines.
FEW = 3

_LINE = re.compile(r"(?P<indent>[ \t]*)(?P<code>[^\r\n]*)")
_END = re.compile(r"(?=[\r\n])|\Z")  # of the line
_WORD = re.compile(r"\w*")
_OPENERS = {
    "class": "class _:",
    "def": "def _():",
    "elif": "elif _:",
    "else": "else:",
    "except": "except _:",
    "finally": "finally:",
    "try": "try:",
}
_NOT_LINE_END = re.compile(r"[^\r\n]")


class Fault(NamedTuple):
    """A part that is not Python: its offset, what is wrong, and the span in which nothing may be edited.

    `is_python` is set if the interpreter accepts it and only LibCST's parser does not.
    """

    at: int
    message: str
    start: int
    end: int
    is_python: bool


class Parsed(NamedTuple):
    source: Source | None
    faults: tuple[Fault, ...] = ()


def parse(program: Program, target: Target, before: str = "") -> Parsed:
    """The program without its faulty lines, or None if too little of it is Python. Raises RecursionError.

    The cells of a notebook are parsed separately, so that a bad one does not hide the others. `before` is the last
    valid state of the program, if somebody is typing: the lines that differ from it are considered faulty.
    """
    try:
        return Parsed(Source(program.text, target))
    except cst.ParserSyntaxError as error:
        whole = _fault(program.text, error)
    half_typed = _without_what_is_typed(program.text, target, before, whole) if before else Parsed(None)
    if _hidden(half_typed, program) <= FEW:
        return half_typed
    return min(_readable_parts(program, target, whole), half_typed, key=lambda parsed: _hidden(parsed, program))


def _hidden(parsed: Parsed, program: Program) -> float:
    """The number of lines of a program that were left out."""
    if parsed.source is None:
        return math.inf
    left = LINE_END.split(parsed.source.text)
    return sum(1 for one, other in zip(left, LINE_END.split(program.text), strict=True) if one != other)


def _readable_parts(program: Program, target: Target, whole: tuple[int, str]) -> Parsed:
    text = program.text
    faults: list[Fault] = []
    for segment in program.segments:
        piece = text[segment.start : segment.end]
        fault = _first_fault(piece)
        if fault is not None:
            at, message = fault
            is_python = _interpreter_error(piece) is None
            left = unread.readable(piece) if is_python else None
            if left is not None:
                at = _shared(piece, left)
            faults.append(Fault(segment.start + at, message, segment.start, segment.end, is_python))
            text = text[: segment.start] + (left or _readable(piece)) + text[segment.end :]
    if not faults:  # each part is valid Python, but the whole is not
        faults = [Fault(*whole, 0, len(text), False)]
    try:
        source = Source(text, target) if text != program.text else None
    except cst.ParserSyntaxError:
        source = None
    return Parsed(source, tuple(faults))


def _without_what_is_typed(text: str, target: Target, before: str, whole: tuple[int, str]) -> Parsed:
    """The text without the lines from the first to the last that differs from `before`, if that is enough."""
    start, end = _difference(before, text)
    start = max(text.rfind("\n", 0, start), text.rfind("\r", 0, start)) + 1
    end = start + len(text[start:end].rstrip("\r\n"))  # for added whole lines, without the last newline
    end = next(found.start() for found in _END.finditer(text, end))
    for masked in _masks(text[start:end], before[start:]):
        try:
            source = Source(text[:start] + masked + text[end:], target)
        except cst.ParserSyntaxError:
            continue
        return Parsed(source, (Fault(*whole, start, end, False),))
    return Parsed(None)


def _difference(old: str, new: str) -> tuple[int, int]:
    """Start and end, in the new text, of the part that differs from the old one."""
    start = _shared(old, new)
    rest = min(len(old), len(new)) - start
    return start, len(new) - min(_shared(old[::-1], new[::-1]), rest)


def _shared(one: str, other: str) -> int:
    """The length of the common prefix, by bisection: comparing slices is a hundred times as fast as characters."""
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _masks(typed: str, before: str) -> Iterator[str]:
    """Possible replacements, of the same length, for the lines being typed; `before` is the old text from there on."""

    def mask(indent: str | None, opens: bool | None) -> str:
        def masked(line: re.Match[str]) -> str:
            lead = line["indent"] if indent is None else indent
            return lead + _placeholder(line.group()[len(lead) :], opens)

        return _LINE.sub(masked, typed)

    was = _LINE.match(before)
    assert was is not None  # it matches the empty line, too
    blank = _NOT_LINE_END.sub(" ", typed)
    if not was["code"]:
        yield blank  # new lines: without them, the program is as it was before
    for opens in (None, True):  # the line may open a block, although its colon is not typed yet
        yield mask(None, opens)
    if not LINE_END.search(typed) and len(typed) > len(was["indent"]):  # or a line with a `#` before its indentation
        yield mask(was["indent"], _opens(was["code"]))
    yield blank


def _first_fault(text: str) -> tuple[int, str] | None:
    try:
        unread.parse_module(text)
    except cst.ParserSyntaxError as error:
        return _fault(text, error)
    return None


def _readable(text: str) -> str:
    """The text with its faulty lines masked, or blank if that does not help."""
    for masked in islice(_masking(text), MAX_FAULTS):
        if _interpreter_error(masked) is None and _first_fault(masked) is None:
            return masked
    return _NOT_LINE_END.sub(" ", text)


def _masking(text: str) -> Iterator[str]:
    """The text with one faulty line after the other replaced by a placeholder of the same length, or by blanks."""
    seen: set[int] = set()
    while (fault := _first_line_fault(text)) is not None:
        start = max(text.rfind("\n", 0, fault), text.rfind("\r", 0, fault)) + 1
        line = _LINE.match(text, start)
        assert line is not None
        if not line.group().strip():
            return  # an error at a blank line cannot be fixed by changing a line
        code = " " * len(line["code"]) if start in seen else _placeholder(line["code"])
        text = text[:start] + line["indent"] + code + text[line.end() :]
        seen.add(start)
        yield text


def _first_line_fault(text: str) -> int | None:
    """The place of the first error, by the interpreter's fast parser if it finds one, else by LibCST's."""
    word = _interpreter_error(text)
    if word is not None:
        return _offset(text, word[0], word[1])
    fault = _first_fault(text)
    return None if fault is None else fault[0]


def _placeholder(code: str, opens: bool | None = None) -> str:
    """A line of the same length that opens a block if `code` seems to, unless specified otherwise.

    A clause of the statement above, such as Python 2's `except E, e:`, stays one.
    """
    if opens is None:
        opens = _opens(code)
    short = _OPENERS.get(_WORD.match(code).group(), "if _:") if opens else "_"  # type: ignore[union-attr]
    return (short if len(short) <= len(code) else "_"[: len(code)]).ljust(len(code))


def _opens(code: str) -> bool:
    """Whether a line seems to open a block."""
    return re.search(r":[ \t]*(#.*)?$", code) is not None


def is_python(text: str) -> bool:
    """Whether this interpreter accepts a source; LibCST accepts some that no interpreter does."""
    return _interpreter_error(text) is None


def _fault(text: str, error: cst.ParserSyntaxError) -> tuple[int, str]:
    """Where and why a source is not Python: the interpreter's message, which people know, or else the parser's."""
    line, column, message = _interpreter_error(text) or _parser_error(error)
    return _offset(text, line, column), message


def _offset(text: str, line: int, column: int) -> int:
    starts = [0, *(end.end() for end in LINE_END.finditer(text))]
    return min(starts[min(max(line, 1), len(starts)) - 1] + column, len(text))


def _interpreter_error(text: str) -> tuple[int, int, str] | None:
    """Line (from 1), column (from 0) and message; None if this interpreter accepts what the parser does not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about escapes in strings do not matter here
            ast.parse(text)
    except (SyntaxError, ValueError) as error:
        if isinstance(error, SyntaxError) and error.lineno:
            return error.lineno, max((error.offset or 1) - 1, 0), error.msg
        # a null byte, for which Python gives no place; before 3.11.4 it raises a ValueError
        return len(LINE_END.findall(text.partition("\0")[0])) + 1, 0, str(error)
    except (RecursionError, MemoryError):
        pass
    return None


def _parser_error(error: cst.ParserSyntaxError) -> tuple[int, int, str]:
    """The same from the parser's message: its `error at 4:0` is right even when its attributes are off by one line."""
    found = re.search(r"error at (\d+):(\d+): (.*)", error.message)
    if found is None:
        return error.raw_line, error.raw_column, error.message.split("\n")[0]
    expected = found[3] if len(found[3]) < 60 else "unexpected token"
    return int(found[1]), int(found[2]), expected
