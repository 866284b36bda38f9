"""What a document is: program texts in a file, where each part of them is, and how edits are written back."""

from __future__ import annotations

import codecs
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from clipcheck.rule import Edit, Place

LINE_END = re.compile(r"\r\n|\n|\r")
NOTEBOOK = (".ipynb",)
MARKDOWN = (".md", ".markdown", ".mdx", ".qmd", ".rmd", ".Rmd")
RST = (".rst",)


class Unreadable(Exception):
    """The bytes are not text, not in the encoding that they name, or not what the file's ending promises."""


class MissingParser(Exception):
    """Reading such a file needs a package that is not installed."""


class Segment(NamedTuple):
    """A part of a program's text that is in one piece in the file: `line` is the file's line, or the cell's.

    `margins` is what comes before each of its lines in the file and is not part of the program (a quote's `> `, the
    indentation of a list item). What is not `editable` is reported only.
    """

    start: int
    end: int
    line: int = 1
    cell: int | None = None
    margins: tuple[str, ...] = ()
    editable: bool = True

    def margin(self, index: int) -> str:
        return self.margins[index] if index < len(self.margins) else ""


class Program(NamedTuple):
    """Text that is analyzed as one; a file of Python is one program of one segment.

    `text` is Python; where the file holds something else (IPython's magics), it is masked in `text`, by as many
    characters, and `original` has what the file says.
    """

    text: str
    segments: tuple[Segment, ...]
    original: str = ""

    @property
    def written(self) -> str:
        return self.original or self.text


@dataclass(frozen=True)
class Document:
    """A file's programs, and how to write edits of them back: bytes outside an edit stay as they are.

    `in_file` returns the file's own line and column for a place
    within a notebook's cell. `fragments` need not parse: they are read one by one, and only if they contain clipping code.
    """

    programs: tuple[Program, ...]
    splice: Callable[[Sequence[Sequence[Edit]]], bytes]
    in_file: Callable[[Place], Place] = lambda place: place
    fragments: bool = False

    @property
    def cells(self) -> bool:
        """Whether places are relative to cells."""
        return any(segment.cell is not None for program in self.programs for segment in program.segments)

    def segment(self, program: int, start: int, end: int) -> Segment | None:
        """The segment that contains the whole range, None if it crosses from one to the next."""
        for segment in self.programs[program].segments:
            if segment.start <= start and end <= segment.end:
                return segment
        return None

    def place(self, program: int, start: int, end: int) -> Place:
        """The place of a range of a program's text in the file."""
        text, segments, _ = self.programs[program]
        segment = segments[bisect_right([segment.start for segment in segments], start) - 1]
        piece = text[segment.start : segment.end]
        line, column = _line_and_column(piece, start - segment.start)
        end_line, end_column = _line_and_column(piece, min(end, segment.end) - segment.start)
        return Place(
            line + segment.line - 1,
            column + len(segment.margin(line - 1)),
            end_line + segment.line - 1,
            end_column + len(segment.margin(end_line - 1)),
            segment.cell,
        )

    def lines(self, cell: int | None, program: int) -> dict[int, str]:
        """The lines around a place as the file has them, by number, without their ends: what a report shows."""
        written = self.programs[program].written
        return {
            segment.line + number: segment.margin(number) + line
            for segment in self.programs[program].segments
            if segment.cell == cell
            for number, line in enumerate(LINE_END.split(written[segment.start : segment.end]))
        }


def apply(text: str, edits: Iterable[Edit]) -> str:
    """`text` after `edits`, which must not overlap."""
    pieces: list[str] = []
    done = 0
    for edit in sorted(edits):
        pieces += text[done : edit.start], edit.text
        done = edit.end
    return "".join([*pieces, text[done:]])


def decoded(data: bytes, encoding: str) -> str:
    """The text in `data`, which must give the same bytes back. Raises Unreadable."""
    try:
        text = data.decode(encoding)
        exact = text.encode(encoding) == data
    except (UnicodeError, LookupError) as error:
        raise Unreadable(f"not {encoding}: {error}") from None
    if not exact:
        raise Unreadable(f"{encoding} does not give the same bytes back")
    return text


def without_bom(data: bytes) -> tuple[bytes, bytes]:
    """A UTF-8 byte order mark, or nothing, and what follows."""
    bom = codecs.BOM_UTF8 if data.startswith(codecs.BOM_UTF8) else b""
    return bom, data[len(bom) :]


def _line_and_column(text: str, offset: int) -> tuple[int, int]:
    """Line and column, both from 1, of an offset; columns count code points."""
    starts = _line_starts(text)
    line = bisect_right(starts, offset)
    return line, offset - starts[line - 1] + 1


@lru_cache(maxsize=16)
def _line_starts(text: str) -> tuple[int, ...]:
    """Kept for the texts just seen: each finding asks for several places in one of them."""
    return (0, *(end.end() for end in LINE_END.finditer(text)))
