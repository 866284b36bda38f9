"""What a round of fixes may change: which lines it touches, and whether the findings after it are what fixes promise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from clipcheck.documents.program import Document
from clipcheck.rule import INVALID_SYNTAX, NOT_ANALYZED, NOT_ROUND_TRIPPED, UNUSED, Edit, Finding, Place

Line: TypeAlias = "tuple[int | None, int]"  # the cell and the line in it
Refused: TypeAlias = "tuple[str, int, tuple[tuple[int, int], ...]]"  # a rule, a program and what its fix would replace

_NO_RULES = frozenset({INVALID_SYNTAX, NOT_ANALYZED, NOT_ROUND_TRIPPED})


def is_promised(
    before: Sequence[Finding],
    after: Sequence[Finding],
    taken: Sequence[Finding],
    old: frozenset[Line],
    new: frozenset[Line],
) -> bool:
    """Whether the findings that were fixed are gone, and others came at most where code was touched.

    `old` and `new` are the lines that the fixes touch, before and after. There, another rule may well find something in
    what was written: that is for the next round. Elsewhere, nothing may come up.
    """
    was, now, gone = (
        Counter((f.code, _is_touched(f, lines)) for f in group)
        for group, lines in ((before, old), (after, new), (taken, old))
    )
    fixed = {finding.code for finding in taken}
    for (code, touched), count in now.items():
        if code == UNUSED or (touched and code not in fixed | _NO_RULES):
            continue  # a fix may well leave a comment without anything to silence
        if count > was[code, touched] - gone[code, touched]:
            return False
    return True


def _is_touched(finding: Finding, lines: frozenset[Line]) -> bool:
    place = finding.place
    return any((place.cell, line) in lines for line in range(place.line, place.end_line + 1))


def replaced_lines(document: Document, edits: Sequence[Sequence[Edit]]) -> frozenset[Line]:
    """The lines of a document of which edits replace something."""
    return frozenset(
        line
        for program, some in enumerate(edits)
        for edit in some
        if edit.start < edit.end
        for line in _lines(document.place(program, edit.start, edit.end))
    )


def written_lines(document: Document, edits: Sequence[Sequence[Edit]]) -> frozenset[Line]:
    """The lines of a document, as it is after edits, in which these wrote or left out something."""
    found: set[Line] = set()
    for program, some in enumerate(edits):
        shift = 0
        for edit in sorted(some):
            start = edit.start + shift
            found.update(_lines(document.place(program, start, start + len(edit.text))))
            shift += len(edit.text) - (edit.end - edit.start)
    return frozenset(found)


def _lines(place: Place) -> Iterator[Line]:
    """The lines of a stretch, without the last one where it ends at its start."""
    last = place.end_line - (place.end_column == 1 and place.end_line > place.line)
    return ((place.cell, line) for line in range(place.line, last + 1))


# --- fixes that were refused --------------------------------------------------------------------------------------------


def key(finding: Finding) -> Refused:
    assert finding.fix is not None
    return finding.code, finding.program, tuple((edit.start, edit.end) for edit in finding.fix.edits)


def shifted(refused: Iterable[Refused], edits: Sequence[Sequence[Edit]]) -> set[Refused]:
    """The same fixes in the text after `edits`, without those whose code the edits touch."""
    moved: set[Refused] = set()
    for code, program, spans in refused:
        if any(edit.start < end and start < edit.end for edit in edits[program] for start, end in spans):
            continue
        moved.add(
            (code, program, tuple((_moved(start, edits[program]), _moved(end, edits[program])) for start, end in spans))
        )
    return moved


def _moved(offset: int, edits: Sequence[Edit]) -> int:
    return offset + sum(len(edit.text) - (edit.end - edit.start) for edit in edits if edit.end <= offset)
