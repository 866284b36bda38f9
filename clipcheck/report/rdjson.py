"""The format `rdjson`: reviewdog's diagnostics, with fixes as suggestions."""

from __future__ import annotations

from typing import Any

from clipcheck import site
from clipcheck.engine.results import Outcome
from clipcheck.report.view import Row, View, in_file, replacements, rows, shown
from clipcheck.report.visible import as_json
from clipcheck.rule import Place, Severity

_SEVERITY = {Severity.ERROR: "ERROR", Severity.WARNING: "WARNING", Severity.NOTE: "INFO"}


def report(outcome: Outcome, view: View) -> str:
    content = {
        "source": {"name": "clipcheck", "url": site.address()},
        "severity": "WARNING",
        "diagnostics": [_diagnostic(row) for row in rows(outcome)],
    }
    return as_json(content, indent=2)


def _diagnostic(row: Row) -> dict[str, Any]:
    finding = row.finding
    page = site.page(finding.code, finding.name)
    return {
        "message": finding.message,
        "location": {"path": shown(finding.path), "range": _range(in_file(row))},
        "severity": _SEVERITY[finding.severity],
        "code": {"value": finding.code, **({"url": page} if page else {})},
        "suggestions": [{"range": _range(place), "text": text} for place, text in replacements(row)],
    }


def _range(place: Place) -> dict[str, Any]:
    return {
        "start": {"line": place.line, "column": place.column},
        "end": {"line": place.end_line, "column": place.end_column},
    }
