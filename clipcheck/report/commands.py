"""The formats that a build log turns into annotations: `github` and `azure` workflow commands, one per finding."""

from __future__ import annotations

import os

from clipcheck.engine.results import Outcome
from clipcheck.report.view import Row, View, in_file, rows, where
from clipcheck.report.visible import visible
from clipcheck.rule import Severity

_GITHUB = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "notice"}


def github(outcome: Outcome, view: View) -> str:
    return "".join(_github(row) + "\n" for row in rows(outcome))


def _github(row: Row) -> str:
    finding, place = row.finding, in_file(row)
    properties = {
        "title": f"clipcheck ({finding.code})",
        "file": visible(os.path.abspath(finding.path)),
        "line": place.line,
    }
    if place.line == place.end_line:  # columns of an annotation over several lines are refused
        properties |= {"col": place.column, "endLine": place.end_line, "endColumn": place.end_column}
    else:
        properties["endLine"] = place.end_line
    listed = ",".join(f"{name}={_property(str(value))}" for name, value in properties.items())
    advice = finding.fix.title if finding.fix else finding.help
    message = f"{where(finding)}: {finding.code} {finding.message}" + (f"\n  help: {advice}" if advice else "")
    return f"::{_GITHUB[finding.severity]} {listed}::{_data(message)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def azure(outcome: Outcome, view: View) -> str:
    return "".join(_azure(row) + "\n" for row in rows(outcome))


def _azure(row: Row) -> str:
    finding, place = row.finding, in_file(row)
    kind = "error" if finding.severity is Severity.ERROR else "warning"
    path = visible(os.path.abspath(finding.path)).replace("%", "%AZP25").replace(";", "%3B").replace("]", "%5D")
    message = finding.message.replace("%", "%AZP25")
    return (
        f"##vso[task.logissue type={kind};sourcepath={path};linenumber={place.line};columnnumber={place.column};"
        f"code={finding.code};]{message}"
    )
