"""A baseline: a suppression comment on every line with findings, so that only new ones are reported."""

from __future__ import annotations

from collections.abc import Sequence

from clipcheck.documents.program import Program, Segment
from clipcheck.documents.read import read
from clipcheck.engine import suppressions
from clipcheck.engine.results import FileReport
from clipcheck.python import syntax
from clipcheck.python.source import Source
from clipcheck.rule import Edit


def added(report: FileReport, form: str, reason: str | None) -> tuple[bytes, int]:
    """The file with a suppression for each finding, and the number of suppressed findings; `form` is ignore or noqa."""
    wanted: dict[int, dict[tuple[int | None, int], list[str]]] = {}
    for finding in report.findings:
        if finding.silent_at:
            lines = wanted.setdefault(finding.program, {})
            lines.setdefault((finding.place.cell, finding.silent_at), []).append(finding.code)
    if not wanted:  # it may be a file that cannot be read
        return report.data, 0
    document = read(report.path, report.data)
    edits: list[list[Edit]] = [[] for _ in document.programs]
    suppressed = 0
    for index, lines in wanted.items():
        program = document.programs[index]
        source = syntax.parse(program, "torch").source
        assert source is not None  # rules have looked at it
        for (cell, line), codes in lines.items():
            segment = _segment(program, cell)
            if segment.editable:
                number = source.line_at(segment.start) + line - segment.line
                edits[index].append(_addition(source, number, sorted(set(codes)), form, reason))
                suppressed += len(codes)
    return document.splice(edits), suppressed


def _segment(program: Program, cell: int | None) -> Segment:
    return next(segment for segment in program.segments if segment.cell == cell)


def _addition(source: Source, line: int, codes: Sequence[str], form: str, reason: str | None) -> Edit:
    """Adds the codes to the end of a line: to an existing directive of this form, else in a new one."""
    for directive in suppressions.read(source)[0]:
        same = directive.verb == "ignore" and directive.foreign == (form == "noqa")
        if same and directive.line == line and directive.names:
            at = directive.names[-1].end
            return Edit(at, at, "".join(f", {code}" for code in codes))
    starts = source.line_starts
    stop = starts[line] if line < len(starts) else len(source.text)
    end = starts[line - 1] + len(source.text[starts[line - 1] : stop].rstrip())
    listed = ", ".join(codes)
    words = f"noqa: {listed}" if form == "noqa" else f"clipcheck: ignore[{listed}]"
    return Edit(end, end, f"  # {words}{' ' + reason if reason else ''}")
