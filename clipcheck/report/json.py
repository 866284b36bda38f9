"""The formats `json`, an array of findings in the shape that ruff's users know, and `json-lines`, one finding per line."""

from __future__ import annotations

import os
from typing import Any

from clipcheck import site
from clipcheck.engine.results import Outcome
from clipcheck.report.view import View, rows
from clipcheck.report.visible import as_json
from clipcheck.rule import INVALID_SYNTAX, Finding, Place, Verdict


def report(outcome: Outcome, view: View) -> str:
    return as_json([as_dict(row.finding) for row in rows(outcome)], indent=2, sort_keys=True)


def lines(outcome: Outcome, view: View) -> str:
    return "".join(as_json(as_dict(row.finding), sort_keys=True, separators=(",", ":")) + "\n" for row in rows(outcome))


def as_dict(finding: Finding) -> dict[str, Any]:
    """A finding as JSON; in a notebook all rows are relative to the cell."""
    place = finding.place
    return {
        "cell": place.cell,
        "code": finding.code,
        "end_location": _point(place.end_line, place.end_column),
        "filename": os.path.abspath(finding.path),
        "fix": _fix(finding),
        "help": finding.help or None,
        "location": _point(place.line, place.column),
        "message": finding.message,
        "name": finding.name,
        "noqa_row": None if finding.code == INVALID_SYNTAX else finding.silent_at or place.line,
        "related": [{"cell": other.cell, "message": label, **_span(other)} for other, label in finding.related],
        "severity": finding.severity.value,
        "url": site.page(finding.code, finding.name),
        "verdict": _verdict(finding.verdict),
    }


def _fix(finding: Finding) -> dict[str, Any] | None:
    if finding.fix is None:
        return None
    return {
        "applicability": finding.fix.safety.applicability,
        "edits": [{"content": content, **_span(place)} for place, content in finding.changes],
        "message": finding.fix.title,
    }


def _verdict(verdict: Verdict | None) -> dict[str, Any] | None:
    """The result of running the fix on torch, null if it was not run."""
    if verdict is None:
        return None
    return {
        "cases": verdict.cases,
        "exceptions": list(verdict.exceptions),
        "kind": verdict.kind.replace(" ", "-"),
        "reason": verdict.reason or None,
    }


def _span(place: Place) -> dict[str, Any]:
    return {
        "end_location": _point(place.end_line, place.end_column),
        "location": _point(place.line, place.column),
    }


def _point(line: int, column: int) -> dict[str, int]:
    return {"column": column, "row": line}
