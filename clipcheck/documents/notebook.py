"""Notebooks: the code cells as one program, and edits spliced into the JSON so that nothing else of the file changes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from clipcheck.documents.magics import masked
from clipcheck.documents.program import Document, Program, Segment, Unreadable, apply, decoded, without_bom
from clipcheck.rule import Edit, Place

# Kernels that are known by their name alone; a name of the user's own (`my-env`) is most often a Python environment.
_OTHER_KERNEL = re.compile(
    r"(?:ir|julia|bash|javascript|deno|scala|rust|x?cpp|swift|\.net|octave|matlab|sql)", re.IGNORECASE
)
_BLANK = re.compile(r"[ \t\r\n]*")
_ESCAPED = re.compile(
    r"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}|\\.|[^\\]", re.DOTALL
)
_RAW_LINE = re.compile(r"(?:[^\\]|\\[^n])*?\\n|(?:[^\\]|\\.)+", re.DOTALL)


class _Piece(NamedTuple):
    """A line of a cell's source: its text, how the JSON spells it between the quotes, and where that starts."""

    text: str
    raw: str
    at: int


class _Cell(NamedTuple):
    """A code cell's source: what comes before the first piece, between two and after the last in the JSON.

    A list of strings has a quote, comma and white space between its pieces, a single string has nothing.
    """

    number: int
    start: int
    end: int
    pieces: tuple[_Piece, ...]
    lead: str
    gap: str
    tail: str

    @property
    def text(self) -> str:
        return "".join(piece.text for piece in self.pieces)


def read(data: bytes) -> Document:
    """The notebook in a file's bytes. Raises Unreadable if it is not a notebook."""
    bom, rest = without_bom(data)
    text = decoded(rest, "utf-8")
    try:
        notebook = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"not JSON: {error}") from None
    if not isinstance(notebook, dict) or not ("cells" in notebook or "worksheets" in notebook):
        raise Unreadable("not a notebook: it has no `cells`")
    cells = tuple(_code_cells(text)) if _is_python(notebook) else ()
    programs, homes = _programs(cells)
    written = tuple(cell for group in homes for cell in group)

    def splice(edits: Sequence[Sequence[Edit]]) -> bytes:
        changes = [
            change
            for program, group, some in zip(programs, homes, edits, strict=True)
            for segment, cell in zip(program.segments, group, strict=True)
            for change in _changed(text, program, segment, cell, some)
        ]
        return bom + apply(text, changes).encode()

    def in_file(place: Place) -> Place:
        cell = next(cell for cell in written if cell.number == place.cell)
        start = _raw_offset(cell, place.line, place.column)
        end = _raw_offset(cell, place.end_line, place.end_column)
        return Place(*_point(text, start), *_point(text, end))

    return Document(programs, splice, in_file)


def _is_python(notebook: dict[str, Any]) -> bool:
    """Whether the kernel runs Python, in every layout's words; a notebook that does not say is taken for Python."""
    metadata = notebook.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    kernel, language = (
        {**part} if isinstance(part := metadata.get(key), dict) else {} for key in ("kernelspec", "language_info")
    )
    declared = kernel.get("language") or language.get("name")
    if isinstance(declared, str):
        return re.search("python|sage", declared, re.IGNORECASE) is not None
    return _OTHER_KERNEL.match(str(kernel.get("name"))) is None


# --- reading the JSON -----------------------------------------------------------------------------------------------


def _code_cells(text: str) -> Iterator[_Cell]:
    """The code cells with the places of their source strings; numbers count all cells, as Jupyter's users do."""
    top = dict(_members(text, _skip(text, 0)))
    sheets = [at for at in _items(text, top["worksheets"]) if text[at] == "{"] if "worksheets" in top else None
    number = 0
    for group in [top] if sheets is None else [dict(_members(text, at)) for at in sheets]:
        for at in _items(text, group["cells"]) if "cells" in group else ():
            number += 1
            if text[at] != "{":
                continue
            cell = dict(_members(text, at))
            source = cell.get("source", cell.get("input"))  # `input` is the name of format 3
            if source is not None and _value(text, cell.get("cell_type")) == "code" and _runs_python(text, cell):
                found = _source(text, source, number)
                if found is not None:
                    yield found


def _runs_python(text: str, cell: dict[str, int]) -> bool:
    """VS Code marks a cell of another language in its metadata, format 3 in the cell itself."""
    metadata = _value(text, cell.get("metadata"))
    vscode = metadata.get("vscode") if isinstance(metadata, dict) else None
    language = vscode.get("languageId") if isinstance(vscode, dict) else _value(text, cell.get("language"))
    return not isinstance(language, str) or language.lower() in ("python", "")


def _source(text: str, at: int, number: int) -> _Cell | None:
    end = _end(text, at)
    if text[at] == '"':
        pieces: list[_Piece] = []
        offset = at + 1
        for raw in _RAW_LINE.findall(text[at + 1 : end - 1]):
            pieces.append(_Piece(_unquoted(raw), raw, offset))
            offset += len(raw)
        return _Cell(number, at, end, tuple(pieces), '"', "", '"') if pieces else None
    if text[at] != "[":
        return None
    starts = list(_items(text, at))
    if not starts or any(text[start] != '"' for start in starts):
        return None
    ends = [_end(text, start) for start in starts]
    raws = [text[start + 1 : stop - 1] for start, stop in zip(starts, ends, strict=True)]
    pieces = [_Piece(_unquoted(raw), raw, start + 1) for raw, start in zip(raws, starts, strict=True)]
    lead = text[at : starts[0] + 1]
    gap = text[ends[0] - 1 : starts[1] + 1] if len(starts) > 1 else '",' + lead[1:]
    return _Cell(number, at, end, tuple(pieces), lead, gap, text[ends[-1] - 1 : end])


def _members(text: str, at: int) -> Iterator[tuple[str, int]]:
    """Each key of the JSON object at `at` with the offset of its value; the text is known to be JSON."""
    at = _skip(text, at + 1)
    while text[at] != "}":
        key, at = _decode(text, at)
        value = _skip(text, _skip(text, at) + 1)
        yield key, value
        at = _next(text, value)


def _items(text: str, at: int) -> Iterator[int]:
    """The offset of each item of the JSON array at `at`; nothing if something else is there."""
    if text[at] != "[":
        return
    at = _skip(text, at + 1)
    while text[at] != "]":
        yield at
        at = _next(text, at)


def _next(text: str, at: int) -> int:
    """The offset of what follows the value at `at` and its comma."""
    at = _skip(text, _end(text, at))
    return _skip(text, at + 1) if text[at] == "," else at


def _value(text: str, at: int | None) -> Any:
    return None if at is None else _decode(text, at)[0]


def _end(text: str, at: int) -> int:
    return _decode(text, at)[1]


_decode = json.JSONDecoder().raw_decode


def _skip(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    assert found is not None
    return found.end()


def _unquoted(raw: str) -> str:
    value: str = json.loads(f'"{raw}"')
    return value


# --- the programs ---------------------------------------------------------------------------------------------------


def _programs(cells: Sequence[_Cell]) -> tuple[tuple[Program, ...], tuple[tuple[_Cell, ...], ...]]:
    """One program of all cells that share the notebook's namespace, and one for each separate cell."""
    shared: list[tuple[_Cell, str]] = []
    alone: list[list[tuple[_Cell, str]]] = []
    for cell in cells:
        python = masked(cell.text)
        if python is not None:
            text, apart = python
            if apart:
                alone.append([(cell, text)])
            else:
                shared.append((cell, text))
    groups = [group for group in (shared, *alone) if group]
    return tuple(map(_joined, groups)), tuple(tuple(cell for cell, _ in group) for group in groups)


def _joined(group: Sequence[tuple[_Cell, str]]) -> Program:
    """The cells one after the other, a blank line between, so that the end of one is never the start of the next.

    A cell seldom ends with a line end, but a line that a fix adds at its end has to find one: it is lent here and
    taken back when the cell is written.
    """
    texts: list[str] = []
    originals: list[str] = []
    segments: list[Segment] = []
    start = 0
    for cell, text in group:
        lent = "" if _ends_line(text) else "\n"
        segments.append(Segment(start, start + len(text) + len(lent), cell=cell.number))
        texts.append(text + lent)
        originals.append(cell.text + lent)
        start += len(text) + len(lent) + 1
    return Program("\n".join(texts), tuple(segments), "\n".join(originals))


def _ends_line(text: str) -> bool:
    return text.endswith(("\n", "\r"))


# --- writing --------------------------------------------------------------------------------------------------------


def _changed(text: str, program: Program, segment: Segment, cell: _Cell, edits: Sequence[Edit]) -> Iterator[Edit]:
    """What the edits in one cell change in the JSON: at most its source."""
    mine = [
        Edit(edit.start - segment.start, edit.end - segment.start, edit.text)
        for edit in edits
        if segment.start <= edit.start and edit.end <= segment.end
    ]
    if not mine:
        return
    after = apply(program.written[segment.start : segment.end], mine)
    if not _ends_line(cell.text) and after.endswith("\n"):
        after = after[:-1]
    if after != cell.text:
        yield Edit(cell.start, cell.end, _spelled(text, cell, after))


def _spelled(text: str, cell: _Cell, after: str) -> str:
    """The JSON of a cell's new source: pieces that stay keep their spelling, new ones take that of their neighbors."""
    from difflib import SequenceMatcher

    old = [piece.text for piece in cell.pieces]
    new: list[str] = re.findall(r"[^\n]*\n|[^\n]+", after)
    if not cell.gap and not new:
        return '""'
    if not new:
        return "[]"
    raws: list[str] = []
    for kind, a, b, c, d in SequenceMatcher(None, old, new, autojunk=False).get_opcodes():
        if kind == "equal":
            raws += [piece.raw for piece in cell.pieces[a:b]]
        else:
            escape = text.isascii() or any("\\u" in piece.raw for piece in cell.pieces[a:b])
            raws += [json.dumps(line, ensure_ascii=escape or _has_surrogate(line))[1:-1] for line in new[c:d]]
    return cell.lead + cell.gap.join(raws) + cell.tail


def _has_surrogate(line: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in line)


# --- places in the file ---------------------------------------------------------------------------------------------


def _raw_offset(cell: _Cell, line: int, column: int) -> int:
    """The offset in the JSON of a line and column of a cell."""
    at = cell.pieces[-1].at + len(cell.pieces[-1].raw)
    current = 1
    for piece in cell.pieces:
        offset = piece.at
        for spelled in _ESCAPED.findall(piece.raw):
            if current == line and column == 1:
                return int(offset)
            if current == line:
                column -= 1
            offset += len(spelled)
            if spelled in ("\\n", "\\u000a", "\\u000A"):
                if current == line:
                    return int(offset - len(spelled))
                current += 1
    return int(at)


def _point(text: str, offset: int) -> tuple[int, int]:
    before = text[:offset]
    return before.count("\n") + 1, offset - before.rfind("\n")
