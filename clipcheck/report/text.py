"""The formats for people: `full` with the source around each finding and its fix as a small diff, `concise` with a line."""

from __future__ import annotations

import os
from collections.abc import Iterator

from clipcheck import document
from clipcheck.config import Settings
from clipcheck.engine import FileReport
from clipcheck.rule import Edit, Finding, Place, Safety
from clipcheck.run import Outcome

CONTEXT = 2
TAB = "    "


def full(outcome: Outcome, settings: Settings) -> str:
    blocks = [block for report in outcome.reports for block in _full_report(report, settings)]
    return "\n".join([*blocks, summary(outcome, settings)])


def concise(outcome: Outcome, settings: Settings) -> str:
    lines = [
        f"{where(finding)}: {finding.code} {_mark(finding, settings)}{finding.message}\n"
        for finding in outcome.findings
    ]
    return "".join([*lines, summary(outcome, settings)])


def summary(outcome: Outcome, settings: Settings) -> str:
    """The closing lines: how many problems there are, and what a fix would do about them."""
    left, fixed = len(outcome.findings), len(outcome.fixed)
    if not left + fixed:
        return "No problems found.\n"
    safe, unsafe = (sum(_safety(f) is level for f in outcome.findings) for level in (Safety.SAFE, Safety.UNSAFE))
    if settings.fix:
        lines = [f"Found {_problems(left + fixed)} ({fixed} fixed, {left} left)."]
    else:
        lines = [f"Found {_problems(left)}."]
        fixable = safe + (unsafe if settings.safety <= Safety.UNSAFE else 0)
        if fixable:
            flag = "--fix --unsafe-fixes" if settings.safety <= Safety.UNSAFE else "--fix"
            lines.append(f"[*] {fixable} fixable with `{flag}`.")
    if unsafe and settings.safety > Safety.UNSAFE:
        lines.append(f"{unsafe} more fixable with `--fix --unsafe-fixes`.")
    return "".join(line + "\n" for line in lines)


def would_fix(outcome: Outcome) -> str:
    """The closing line of `--diff`."""
    fixed = len(outcome.fixed)
    unsafe = sum(_safety(f) is Safety.UNSAFE for f in outcome.findings)
    more = f" ({unsafe} more with --unsafe-fixes)" if unsafe else ""
    return f"Would fix {_problems(fixed)}{more}.\n"


def where(finding: Finding) -> str:
    cell = "" if finding.place.cell is None else f":cell {finding.place.cell}"
    return f"{shown(finding.path)}{cell}:{finding.place.line}:{finding.place.column}"


def shown(path: str) -> str:
    """A path as people read it: relative to the current folder where it lies below it."""
    try:
        relative = os.path.relpath(path)
    except ValueError:  # another drive
        return path
    return path if relative.startswith("..") else relative


def _problems(count: int) -> str:
    return f"{count} problem{'' if count == 1 else 's'}"


def _safety(finding: Finding) -> Safety | None:
    return finding.fix.safety if finding.fix else None


def _mark(finding: Finding, settings: Settings) -> str:
    return "[*] " if finding.fix and settings.applies(finding.fix.safety) else ""


def _full_report(report: FileReport, settings: Settings) -> Iterator[str]:
    doc = None
    for finding in report.findings:
        head = f"{finding.code} {_mark(finding, settings)}{finding.message}\n"
        if doc is None:
            try:
                doc = document.read(report.path, report.fixed_data or report.data)
            except document.Unreadable:
                yield head + f" --> {where(finding)}\n"
                continue
        lines = doc.lines(finding.place.cell, finding.program)
        yield head + "".join(_frame(finding, lines)) + "".join(_help(finding, lines))


def _frame(finding: Finding, lines: dict[int, str]) -> Iterator[str]:
    place = finding.place
    first, last = place.line, min(place.end_line, place.line + 4)
    around = _trimmed(range(first - CONTEXT, last + CONTEXT + 1), lines, keep=range(first, last + 1))
    width = len(str(max(around, default=1)))
    yield f"{' ' * width}--> {where(finding)}\n"
    yield f"{' ' * width} |\n"
    for number in around:
        yield f"{number:>{width}} | {_expand(lines[number])}".rstrip() + "\n"
        if number == first:
            end = place.end_column if place.end_line == place.line else len(lines[number]) + 1
            lead, marked = lines[number][: place.column - 1], lines[number][place.column - 1 : end - 1]
            yield f"{' ' * width} | {' ' * len(_expand(lead))}{'^' * max(len(_expand(marked)), 1)}\n"
    yield f"{' ' * width} |\n"
    for other, label in finding.related:
        yield f"{' ' * width} = line {other.line}: {label}: {lines.get(other.line, '').strip()}\n"


def _help(finding: Finding, lines: dict[int, str]) -> Iterator[str]:
    if finding.fix is None:
        if finding.help:
            yield f"help: {finding.help}\n"
        return
    yield f"help: {finding.fix.title}\n"
    yield from _diff(finding.changes, lines)
    if finding.fix.safety is Safety.UNSAFE:
        yield "note: unsafe fix, training behaviour may change\n"


def _diff(changes: tuple[tuple[Place, str], ...], lines: dict[int, str]) -> Iterator[str]:
    """The fix as a diff with one line of context, numbered as in the new file."""
    new = dict(lines)
    rows: list[tuple[str, int, str]] = []  # sign, number in the new file, text
    shift = 0
    touched = _touched_lines(changes, new)
    width = len(str(max(new, default=1) + 9))
    for first, last, text in touched:
        removed = [lines[n] for n in range(first, last + 1) if n in lines]
        added = text.split("\n") if text is not None else []
        rows.append(("|", first - 1 + shift, lines.get(first - 1, "")))
        while removed and added and removed[0] == added[0]:
            rows.append(("|", first + shift, added.pop(0)))
            removed.pop(0)
            first += 1
        tail: list[str] = []
        while removed and added and removed[-1] == added[-1]:
            tail.insert(0, added.pop())
            removed.pop()
        rows += [("-", 0, line) for line in removed]
        rows += [("+", first + shift + i, line) for i, line in enumerate(added)]
        shift += len(added) - len(removed)
        following = tail[0] if tail else lines.get(last + 1)
        if following is not None:
            rows.append(("|", last + 1 - len(tail) + shift, following))
    yield f"{' ' * width} |\n"
    shown_rows: set[tuple[str, int]] = set()
    for sign, number, line in rows:
        if sign == "|" and (number < 1 or ("|", number) in shown_rows or not line.strip()):
            continue
        shown_rows.add((sign, number))
        label = "" if sign == "-" else str(number)
        yield f"{label:>{width}} {sign} {_expand(line)}".rstrip() + "\n"
    yield f"{' ' * width} |\n"


def _touched_lines(changes: tuple[tuple[Place, str], ...], lines: dict[int, str]) -> list[tuple[int, int, str]]:
    """Runs of whole lines with what they become, changes on neighbouring lines taken together."""
    runs: list[list[tuple[Place, str]]] = []
    for change in changes:
        if runs and change[0].line <= runs[-1][-1][0].end_line + 1:
            runs[-1].append(change)
        else:
            runs.append([change])
    return [_become(run, lines) for run in runs]


def _become(run: list[tuple[Place, str]], lines: dict[int, str]) -> tuple[int, int, str]:
    first, last = run[0][0].line, max(place.end_line for place, _ in run)
    numbers = [n for n in range(first, last + 1) if n in lines]
    starts, total = {}, 0
    for number in numbers:
        starts[number] = total
        total += len(lines[number]) + 1
    text = "\n".join(lines[n] for n in numbers)

    def at(line: int, column: int) -> int:
        return starts.get(line, total) + column - 1

    edits = [Edit(at(p.line, p.column), at(p.end_line, p.end_column), _unix(content)) for p, content in run]
    return first, last, document.apply(text, edits)


def _unix(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _trimmed(numbers: range, lines: dict[int, str], keep: range) -> list[int]:
    """The numbers of lines that exist, without blank ones at the edges."""
    there = [n for n in numbers if n in lines]
    while there and there[0] not in keep and not lines[there[0]].strip():
        there.pop(0)
    while there and there[-1] not in keep and not lines[there[-1]].strip():
        there.pop()
    return there


def _expand(text: str) -> str:
    return text.replace("\t", TAB)
