"""What the formats share: how to print a run, and where a finding is in its file."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from clipcheck.disk import below
from clipcheck.documents.program import Document, MissingParser, Unreadable
from clipcheck.documents.read import read
from clipcheck.engine.results import FileReport, Outcome
from clipcheck.report.visible import visible
from clipcheck.rule import Finding, Place


class Looked(NamedTuple):
    """The files that a run checked, and how many seconds it took."""

    paths: Sequence[str]
    seconds: float


class View(NamedTuple):
    """How a run is printed: with color, after fixing, with a summary, under which category of code scanning."""

    color: bool = False
    fixing: bool = False
    summary: bool = True
    category: str = ""
    exit_code: int = 0
    looked: Looked | None = None


class Row(NamedTuple):
    """A finding beside the report of its file."""

    finding: Finding
    report: FileReport

    @property
    def fixable(self) -> bool:
        """Whether the flags given would fix it."""
        fix = self.finding.fix
        return fix is not None and fix.safety >= self.report.threshold


def rows(outcome: Outcome) -> list[Row]:
    """All findings in order: by path, cell, line, column and code."""
    found = (Row(_readable(finding), report) for report in outcome.reports for finding in report.findings)
    return sorted(found, key=lambda row: row.finding.order)


def with_copies(found: Sequence[Row]) -> list[tuple[Row, list[Row]]]:
    """The findings, each with those at the same place of copies of its function, which are not listed again."""
    groups: dict[object, list[Row]] = {}
    for row in found:
        groups.setdefault((row.finding.code, row.finding.copied) if row.finding.copied else id(row), []).append(row)
    return [(first, copies) for first, *copies in groups.values()]


def _readable(finding: Finding) -> Finding:
    """The finding with harmless text: messages quote the file."""
    return finding._replace(
        message=visible(finding.message),
        help=visible(finding.help),
        related=tuple((place, visible(label)) for place, label in finding.related),
        fix=finding.fix and finding.fix._replace(title=visible(finding.fix.title)),
    )


def shown(path: str) -> str:
    """A path as people read it: relative to the current folder if it is below it, and harmless in a line."""
    name = visible(below(path) or path)
    # a line that starts with two colons is a command for GitHub
    return os.path.join(".", name) if name.lstrip().startswith("::") else name


def where(finding: Finding) -> str:
    """`train.py:6:5`, or `train.ipynb:cell 2:6:5`."""
    place = finding.place
    cell = "" if place.cell is None else f":cell {place.cell}"
    return f"{shown(finding.path)}{cell}:{place.line}:{place.column}"


# --- in the file ----------------------------------------------------------------------------------------------------


@lru_cache(maxsize=8)
def opened(path: str, data: bytes) -> Document | None:
    """The file's document, None if it cannot be read as one."""
    try:
        return read(path, data)
    except (Unreadable, MissingParser):
        return None


@lru_cache(maxsize=64)
def lines(path: str, data: bytes, cell: int | None, program: int) -> dict[int, str]:
    """The lines of a program's cell, or of a whole file, by number; not to be changed. {} for what cannot be read."""
    doc = opened(path, data)
    return doc.lines(cell, program) if doc is not None and program < len(doc.programs) else {}


def lines_of(row: Row) -> dict[int, str]:
    """The lines that the finding's place refers to."""
    return lines(row.report.path, row.report.now, row.finding.place.cell, row.finding.program)


def in_file(row: Row) -> Place:
    """The place of a finding in its file as a whole: of a notebook, in the JSON."""
    place = row.finding.place
    if place.cell is None:
        return place
    doc = opened(row.report.path, row.report.now)
    return place if doc is None else doc.in_file(place)


def replacements(row: Row) -> tuple[tuple[Place, str], ...]:
    """The edits of a finding's fix in its file as a whole."""
    finding = row.finding
    if finding.fix is None:
        return ()
    if finding.path.endswith((".py", ".pyi")):
        return finding.changes
    doc = opened(row.report.path, row.report.now)
    if doc is None:
        return ()
    edits = [list(finding.fix.all_edits) if i == finding.program else [] for i in range(len(doc.programs))]
    return _difference(_text(row.report.now), _text(doc.splice(edits)))


def _difference(old: str, new: str) -> tuple[tuple[Place, str], ...]:
    """The lines that differ between two texts, run by run."""
    from difflib import SequenceMatcher

    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    found = SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    return tuple((Place(a + 1, 1, b + 1, 1), "".join(after[c:d])) for kind, a, b, c, d in found if kind != "equal")


def _text(data: bytes) -> str:
    return data.decode("utf-8-sig", "replace")


def cut(row: Row) -> str:
    """The source that a finding covers."""
    place = row.finding.place
    known = lines_of(row)
    text = [known.get(number, "") for number in range(place.line, place.end_line + 1)]
    text[-1] = text[-1][: place.end_column - 1]
    text[0] = text[0][place.column - 1 :]
    return "\n".join(text)


def repository(path: str) -> str:
    """The root of the repository that holds a path, else the current folder; links resolved."""
    folder = os.path.dirname(os.path.realpath(path))
    while not os.path.exists(os.path.join(folder, ".git")):
        above = os.path.dirname(folder)
        if above == folder:
            return os.path.realpath(os.getcwd())
        folder = above
    return folder


def by_file(outcome: Outcome) -> Iterator[tuple[str, list[Row]]]:
    """The rows file by file, in order."""
    groups: dict[str, list[Row]] = {}
    for row in rows(outcome):
        groups.setdefault(row.finding.path, []).append(row)
    yield from groups.items()
