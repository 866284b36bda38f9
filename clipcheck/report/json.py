"""The `json` format: an array of findings, in the shape that ruff's users know."""

from __future__ import annotations

import json
import os
from typing import Any

from clipcheck.config import Settings
from clipcheck.engine import INVALID_SYNTAX
from clipcheck.rule import Finding, Place
from clipcheck.run import Outcome

PAGES = "https://clipcheck.dev/rules"


def report(outcome: Outcome, settings: Settings) -> str:
    return json.dumps([as_dict(finding) for finding in outcome.findings], indent=2, sort_keys=True)


def as_dict(finding: Finding) -> dict[str, Any]:
    place = finding.place
    pseudo = finding.code == finding.name
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
        "noqa_row": None if finding.code == INVALID_SYNTAX else place.line,
        "related": [{"message": label, **_span(other)} for other, label in finding.related],
        "severity": finding.severity.value,
        "url": None if pseudo else f"{PAGES}/{finding.name}",
    }


def _fix(finding: Finding) -> dict[str, Any] | None:
    if finding.fix is None:
        return None
    return {
        "applicability": finding.fix.safety.applicability,
        "edits": [{"content": content, **_span(place)} for place, content in finding.changes],
        "message": finding.fix.title,
    }


def _span(place: Place) -> dict[str, Any]:
    return {
        "end_location": _point(place.end_line, place.end_column),
        "location": _point(place.line, place.column),
    }


def _point(line: int, column: int) -> dict[str, int]:
    return {"column": column, "row": line}
