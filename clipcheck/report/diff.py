"""The output of `--diff`: what `--fix` would change, as a unified diff."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from clipcheck.documents.program import Document
from clipcheck.documents.read import read
from clipcheck.engine.results import FileReport
from clipcheck.report.paint import Paint


def of_file(file: FileReport, name: str) -> Iterator[str]:
    """The diff of one file under `name`, cell by cell for a notebook; no headers without a name."""
    if file.fixed_data is None:
        return
    before, after = (read(file.path, data) for data in (file.data, file.fixed_data))
    if not before.cells:
        yield from _unified(file.data.decode("utf-8", "replace"), file.fixed_data.decode("utf-8", "replace"), name)
        return
    new = _cells(after)
    for cell, text in _cells(before).items():
        yield from _unified(text, new[cell], f"{name}:cell {cell}" if name else "")


def _cells(doc: Document) -> dict[int | None, str]:
    return {
        segment.cell: program.written[segment.start : segment.end]
        for program in doc.programs
        for segment in program.segments
    }


def _unified(old: str, new: str, name: str) -> Iterator[str]:
    lines = difflib.unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), name, name)
    for line in lines:
        if not name and line.startswith(("--- ", "+++ ")) and line[4:].strip() == "":
            continue
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


def painted(lines: str, paint: Paint) -> str:
    """A diff with its lines in color."""
    return "".join(_painted(line, paint) for line in lines.splitlines(keepends=True))


def _painted(line: str, paint: Paint) -> str:
    text = line.rstrip("\r\n")
    end = line[len(text) :]
    if text.startswith(("--- ", "+++ ")):
        return paint(text, "bold") + end
    style = {"-": "red", "+": "green", "@": "cyan"}.get(text[:1])
    return paint(text, style) + end if style else line
