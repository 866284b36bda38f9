"""The format `gitlab`: GitLab's code quality report."""

from __future__ import annotations

from collections import Counter
from hashlib import blake2b
from typing import Any

from clipcheck.engine.results import Outcome
from clipcheck.report.view import Row, View, cut, in_file, rows, shown
from clipcheck.report.visible import as_json
from clipcheck.rule import Severity

_SEVERITY = {Severity.ERROR: "critical", Severity.WARNING: "major", Severity.NOTE: "minor"}


def report(outcome: Outcome, view: View) -> str:
    seen: Counter[str] = Counter()
    return as_json([_issue(row, seen) for row in rows(outcome)], indent=2, sort_keys=True)


def _issue(row: Row, seen: Counter[str]) -> dict[str, Any]:
    finding, place = row.finding, in_file(row)
    path = shown(finding.path).replace("\\", "/")
    return {
        "check_name": finding.code,
        "description": f"{finding.code}: {finding.message}",
        "severity": _SEVERITY[finding.severity],
        "fingerprint": _fingerprint(f"{path}\0{finding.code}\0{cut(row)}", seen),
        "location": {
            "path": path,
            "positions": {
                "begin": {"line": place.line, "column": place.column},
                "end": {"line": place.end_line, "column": place.end_column},
            },
        },
    }


def _fingerprint(what: str, seen: Counter[str]) -> str:
    """Equal for the same source in the same file, wherever it is there; repeated ones get a number."""
    seen[what] += 1
    return blake2b(f"{what}\0{seen[what]}".encode(errors="replace"), digest_size=8).hexdigest()
