"""Between a file's bytes and the program texts in it: decode once, and splice edits back into the original bytes."""

from __future__ import annotations

import codecs
import io
import re
import tokenize
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from clipcheck.rule import Edit, Place

LINE_END = re.compile(r"\r\n|\n|\r")


class Unreadable(Exception):
    """The bytes are not text, or not in the encoding that they name."""


class Segment(NamedTuple):
    """A stretch of a program's text that stands in one piece in the file: `line` is the file's line, or the cell's."""

    start: int
    end: int
    line: int = 1
    cell: int | None = None


class Program(NamedTuple):
    """A text that is analysed as one; a file of Python is one program of one segment."""

    text: str
    segments: tuple[Segment, ...]


@dataclass(frozen=True)
class Document:
    """A file's programs, and how to write edits of them back: bytes outside an edit stay as they are."""

    programs: tuple[Program, ...]
    splice: Callable[[Sequence[Sequence[Edit]]], bytes]

    def segment(self, program: int, start: int, end: int) -> Segment | None:
        """The segment that holds the whole stretch, None where it crosses from one to the next."""
        for segment in self.programs[program].segments:
            if segment.start <= start and end <= segment.end:
                return segment
        return None

    def place(self, program: int, start: int, end: int) -> Place:
        """Where a stretch of a program's text stands in the file."""
        text, segments = self.programs[program]
        index = bisect_right([segment.start for segment in segments], start) - 1
        segment = segments[max(index, 0)]
        piece = text[segment.start : segment.end]
        line, column = _line_and_column(piece, start - segment.start)
        end_line, end_column = _line_and_column(piece, min(end, segment.end) - segment.start)
        offset = segment.line - 1
        return Place(line + offset, column, end_line + offset, end_column, segment.cell)

    def lines(self, cell: int | None, program: int) -> dict[int, str]:
        """The lines around a place, by number, without their ends: what a report shows."""
        text, segments = self.programs[program]
        return {
            segment.line + number: line
            for segment in segments
            if segment.cell == cell
            for number, line in enumerate(LINE_END.split(text[segment.start : segment.end]))
        }


def read(path: str, data: bytes) -> Document:
    """The document in a file's bytes, by the ending of its name. Raises Unreadable."""
    return _python(data)


def apply(text: str, edits: Sequence[Edit]) -> str:
    """`text` after `edits`, which must not overlap."""
    pieces: list[str] = []
    done = 0
    for edit in sorted(edits):
        pieces += text[done : edit.start], edit.text
        done = edit.end
    return "".join([*pieces, text[done:]])


def _python(data: bytes) -> Document:
    encoding, bom = _encoding(data)
    try:
        text = data[len(bom) :].decode(encoding)
        exact = text.encode(encoding) == data[len(bom) :]
    except (UnicodeError, LookupError) as error:
        raise Unreadable(f"not {encoding}: {error}") from None
    if not exact:
        raise Unreadable(f"{encoding} does not give the same bytes back")

    def splice(edits: Sequence[Sequence[Edit]]) -> bytes:
        return bom + apply(text, edits[0]).encode(encoding)

    return Document((Program(text, (Segment(0, len(text)),)),), splice)


def _encoding(data: bytes) -> tuple[str, bytes]:
    """The encoding by PEP 263 and the byte order mark."""
    bom = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
    try:
        name, _ = tokenize.detect_encoding(io.BytesIO(data).readline)
    except SyntaxError as error:
        raise Unreadable(str(error)) from None
    return ("utf-8" if name == "utf-8-sig" else name), bom


def _line_and_column(text: str, offset: int) -> tuple[int, int]:
    """Line and column, both from 1, of an offset; columns count code points."""
    starts = [0, *(end.end() for end in LINE_END.finditer(text))]
    line = bisect_right(starts, offset)
    return line, offset - starts[line - 1] + 1
