"""What a round of fixes may change: which lines it touches, and whether the new findings are acceptable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeAlias

from clipcheck.documents.program import Document
from clipcheck.rule import INVALID_SYNTAX, NOT_ANALYZED, NOT_ROUND_TRIPPED, UNUSED, Edit, Finding

Line: TypeAlias = "tuple[int | None, int]"  # the cell and the line in it
Refused: TypeAlias = (
    "tuple[str, int, tuple[tuple[int, int], ...]]"  # a rule, a program, and the text that its fix would replace
)

_NO_RULES = frozenset({INVALID_SYNTAX, NOT_ANALYZED})
# Possible results of a correct fix: an unused suppression comment, a last line where the parser loses white space.
_FOLLOWING = frozenset({UNUSED, NOT_ROUND_TRIPPED})


def is_promised(
    before: Sequence[Finding],
    after: Sequence[Finding],
    taken: Sequence[Finding],
    old: frozenset[Line],
    new: frozenset[Line],
) -> bool:
    """Whether the fixed findings are gone, and new ones are only where code was touched.

    `old` and `new` are the lines that the fixes touch, before and after. There, another rule may find something in the
    new code, or the same rule in the code around it: the next round handles that. Elsewhere, every finding must have
    been there `before`, at least as a masked one that its rule reported while the mistake that hid it was in place.
    """
    was, now, gone = (
        Counter((finding.code, _touch(finding, lines)) for finding in group)
        for group, lines in ((before, old), (after, new), (taken, old))
    )
    # a finding that covered touched code before may not do so afterward, but it is not new
    for code in {code for code, _ in was}:
        moved = was[code, "elsewhere"] - gone[code, "elsewhere"] - now[code, "elsewhere"]
        was[code, None] += max(moved, 0)
    return all(
        count <= was[code, touch] - gone[code, touch]
        for (code, touch), count in now.items()
        if code not in _FOLLOWING and (touch is None or gone[code, touch] or code in _NO_RULES)
    )


def _touch(finding: Finding, lines: frozenset[Line]) -> str | None:
    """Where a finding is touched: at its start, or between its related places, such as a norm and its clip."""
    first = finding.place
    if (first.cell, first.line) in lines:
        return "start"
    places = [first, *(place for place, _ in finding.related if place.cell == first.cell)]
    between = range(min(place.line for place in places), max(place.end_line for place in places) + 1)
    apart = ((place.cell, place.line) for place, _ in finding.related)  # in other cells
    return "elsewhere" if any(line in lines for line in (*((first.cell, n) for n in between), *apart)) else None


def replaced_lines(document: Document, edits: Sequence[Sequence[Edit]]) -> frozenset[Line]:
    """The lines of a document that edits change, not those between which they only insert lines."""
    return frozenset(
        line
        for program, some in enumerate(edits)
        for edit in some
        if edit.start < edit.end or not (_begins_line(document, program, edit) and edit.text.endswith(("\n", "\r")))
        for line in _lines(document, program, edit.start, edit.end)
    )


def written_lines(before: Document, after: Document, edits: Sequence[Sequence[Edit]]) -> frozenset[Line]:
    """The lines, after edits, that contain new text, not those between which they only removed lines."""
    found: set[Line] = set()
    for program, some in enumerate(edits):
        shift = 0
        for edit in sorted(some):
            start = edit.start + shift
            gone = before.programs[program].text[edit.start : edit.end]
            if edit.text or not (_begins_line(before, program, edit) and gone.endswith(("\n", "\r"))):
                found.update(_lines(after, program, start, start + len(edit.text)))
            shift += len(edit.text) - len(gone)
    return frozenset(found)


def _begins_line(document: Document, program: int, edit: Edit) -> bool:
    return not edit.start or document.programs[program].text[edit.start - 1] in "\r\n"


def _lines(document: Document, program: int, start: int, end: int) -> Iterator[Line]:
    """The lines of a span of a program, without the last one if the span only reaches its start."""
    place = document.place(program, start, max(end - 1, start))
    return ((place.cell, line) for line in range(place.line, place.end_line + 1))


# --- fixes that were refused --------------------------------------------------------------------------------------------


def key(finding: Finding) -> Refused:
    assert finding.fix is not None
    return finding.code, finding.program, tuple((edit.start, edit.end) for edit in finding.fix.edits)


def shifted(refused: Iterable[Refused], edits: Sequence[Sequence[Edit]]) -> set[Refused]:
    """The same fixes, shifted to the text after `edits`, without those whose code the edits touch."""
    return {
        (code, program, tuple((_moved(start, edits[program]), _moved(end, edits[program])) for start, end in spans))
        for code, program, spans in refused
        if not any(edit.start < end and start < edit.end for edit in edits[program] for start, end in spans)
    }


def _moved(offset: int, edits: Sequence[Edit]) -> int:
    return offset + sum(len(edit.text) - (edit.end - edit.start) for edit in edits if edit.end <= offset)
