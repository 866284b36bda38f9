"""Source with a finding marked in it, and a fix as a small diff: what the `full` format shows of a file."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import takewhile

from clipcheck.documents.program import apply
from clipcheck.report.paint import Paint
from clipcheck.report.view import Row, lines, where
from clipcheck.report.visible import visible
from clipcheck.rule import Edit, Finding, Place

CONTEXT = 2
LONGEST = 5  # lines of a finding that are shown
TAB = "    "


def source_frame(finding: Finding, lines: dict[int, str], paint: Paint) -> Iterator[str]:
    """The lines around a finding with carets below it, and related places with dashes."""
    place = finding.place
    related = [(other, label) for other, label in finding.related if other.cell == place.cell and other.line in lines]
    numbers = _around([place, *(other for other, _ in related)], lines)
    width = len(str(max(numbers, default=1)))
    gutter = paint(f"{' ' * width} |", "bold", "blue")
    yield f"{' ' * width}{paint('-->', 'bold', 'blue')} {where(finding)}\n"
    yield f"{gutter}\n"
    before = None
    for number in numbers:
        if before is not None and number > before + 1:
            yield f"{paint('...', 'bold', 'blue')}\n"
        before = number
        yield f"{paint(f'{number:>{width}} |', 'bold', 'blue')} {_expand(lines[number])}".rstrip() + "\n"
        if number == place.line:
            yield f"{gutter} {_underline(place, lines[number], '^', paint, 'red')}\n"
        for other, label in related:
            if number == other.line:
                yield f"{gutter} {_underline(other, lines[number], '-', paint, 'blue')} {label}\n"
    yield f"{gutter}\n"
    for other, label in finding.related:
        if (other, label) not in related:
            cell = "" if other.cell is None else f"cell {other.cell}, "
            yield f"{' ' * width} {paint('=', 'bold', 'blue')} {cell}line {other.line}: {label}\n"


def _around(places: Iterable[Place], lines: dict[int, str]) -> list[int]:
    """The numbers of the lines to show: each place with its neighbors, without blank lines at the edges."""
    shown: set[int] = set()
    for place in places:
        last = min(place.end_line, place.line + LONGEST - 1)
        run = [n for n in range(place.line - CONTEXT, last + CONTEXT + 1) if n in lines]
        while run and run[0] < place.line and not lines[run[0]].strip():
            run.pop(0)
        while run and run[-1] > last and not lines[run[-1]].strip():
            run.pop()
        shown.update(run)
    return sorted(shown)


def _underline(place: Place, line: str, sign: str, paint: Paint, color: str) -> str:
    """The signs below the part of a place that is on its first line."""
    end = place.end_column if place.end_line == place.line else len(line) + 1
    lead, marked = line[: place.column - 1], line[place.column - 1 : end - 1]
    return " " * len(_expand(lead)) + paint(sign * max(len(_expand(marked)), 1), "bold", color)


# --- a fix ------------------------------------------------------------------------------------------------------------


def fix_as_diff(row: Row, paint: Paint) -> Iterator[str]:
    """The fix with one line of context, numbered as in the new file; a notebook's cells one after the other."""
    finding, report = row
    cells = list(dict.fromkeys(place.cell for place, _ in finding.changes))
    for cell in cells:
        changes = [(place, text) for place, text in finding.changes if place.cell == cell]
        rows = list(_rows(changes, lines(report.path, report.now, cell, finding.program)))
        width = len(str(max((number for _, number, _ in rows), default=1)))
        gutter = paint(f"{' ' * width} |", "bold", "blue")
        if len(cells) > 1:
            yield f"{' ' * width}{paint('-->', 'bold', 'blue')} cell {cell}\n"
        yield f"{gutter}\n"
        before = None
        for sign, number, line in rows:
            if before is not None and number and number > before + 1:
                yield f"{paint('...', 'bold', 'blue')}\n"
            before = number or before
            label = f"{number or '':>{width}} {sign}"
            text = f" {_expand(line)}".rstrip()
            if sign == "|":
                yield f"{paint(label, 'bold', 'blue')}{text}\n"
            else:
                yield paint(f"{label}{text}", "red" if sign == "-" else "green") + "\n"
        yield f"{gutter}\n"


def _rows(changes: list[tuple[Place, str]], lines: dict[int, str]) -> Iterator[tuple[str, int, str]]:
    """Sign, number in the new file (0 for removed lines) and text."""
    shift = 0
    shown: set[int] = set()

    def context(number: int) -> Iterator[tuple[str, int, str]]:
        if number not in shown and lines.get(number, "").strip():
            shown.add(number)
            yield "|", number + shift, lines[number]

    for first, removed, added in _touched(changes, lines):
        after = first + len(removed)
        yield from context(first - 1)
        shown.update(range(first, after))
        yield from (("-", 0, line) for line in removed)
        yield from (("+", first + shift + i, line) for i, line in enumerate(added))
        shift += len(added) - len(removed)
        yield from context(after)


def _touched(changes: list[tuple[Place, str]], lines: dict[int, str]) -> Iterator[tuple[int, list[str], list[str]]]:
    """Runs of whole lines with what they become, changes on neighboring lines taken together."""
    runs: list[list[tuple[Place, str]]] = []
    for change in sorted(changes):
        if runs and change[0].line <= runs[-1][-1][0].end_line + 1:
            runs[-1].append(change)
        else:
            runs.append([change])
    for run in runs:
        first, last = run[0][0].line, max(place.end_line for place, _ in run)
        removed = [lines[number] for number in range(first, last + 1) if number in lines]
        yield _trimmed(first, removed, _become(run, first, removed))


def _trimmed(first: int, removed: list[str], added: list[str]) -> tuple[int, list[str], list[str]]:
    """A run without the lines at both ends that stay as they are."""
    same = _same(removed, added)
    removed, added = removed[same:], added[same:]
    kept = _same(removed[::-1], added[::-1])
    return first + same, removed[: len(removed) - kept], added[: len(added) - kept]


def _same(one: list[str], other: list[str]) -> int:
    """How many lines are the same at the start of both."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _become(run: list[tuple[Place, str]], first: int, removed: list[str]) -> list[str]:
    starts = [0]
    for line in removed:
        starts.append(starts[-1] + len(line) + 1)

    def at(line: int, column: int) -> int:
        return starts[min(line - first, len(starts) - 1)] + column - 1

    edits = [Edit(at(p.line, p.column), at(p.end_line, p.end_column), _unix(text)) for p, text in run]
    return apply("\n".join(removed), edits).split("\n")


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _expand(text: str) -> str:
    return visible(text).replace("\t", TAB)
