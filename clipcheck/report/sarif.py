"""The format `sarif`: SARIF 2.1.0 as code scanning on GitHub reads it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from clipcheck import __version__, site
from clipcheck.catalogue import RULES
from clipcheck.disk import below
from clipcheck.engine.results import Outcome
from clipcheck.report.view import Row, View, cut, in_file, replacements, repository, rows
from clipcheck.report.visible import as_json
from clipcheck.rule import INVALID_SYNTAX, NOT_ANALYZED, NOT_ROUND_TRIPPED, UNUSED, Finding, Place, Severity

_SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
_PROBLEM = {Severity.ERROR: "error", Severity.WARNING: "warning", Severity.NOTE: "recommendation"}
_LONGEST = 1024  # what GitHub takes of a description
# Findings of clipcheck itself, which no rule makes.
_OWN = {
    INVALID_SYNTAX: "The file, or a cell of it, is not valid Python, so it could not be checked completely.",
    NOT_ANALYZED: "The file could not be analyzed completely.",
    NOT_ROUND_TRIPPED: "The parser does not reproduce the file byte for byte, so findings are reported but not fixed.",
    UNUSED: "A comment suppresses a rule that finds nothing there.",
}


def report(outcome: Outcome, view: View) -> str:
    found = rows(outcome)
    listed = list({row.finding.code: row.finding for row in sorted(found, key=lambda row: row.finding.code)}.values())
    root = repository(found[0].finding.path if found else os.path.join(os.getcwd(), "x"))
    marks = _Fingerprints()
    category = view.category or "clipcheck"
    run = {
        "tool": {
            "driver": {
                "name": "clipcheck",
                "semanticVersion": __version__,
                "informationUri": site.address(),
                "rules": [_rule(finding) for finding in listed],
            }
        },
        "columnKind": "unicodeCodePoints",
        "automationDetails": {"id": f"{category}/"},
        "originalUriBaseIds": {"SRCROOT": {"uri": Path(root, "x").as_uri()[:-1]}},
        "invocations": [
            {
                "executionSuccessful": not outcome.errors,
                "exitCode": view.exit_code,
                "toolExecutionNotifications": [
                    *(_unparsed(row, root) for row in found if row.finding.code == INVALID_SYNTAX),
                    *({"level": "error", "message": {"text": error}} for error in outcome.errors),
                ],
            }
        ],
        "results": [_result(row, root, [f.code for f in listed], marks) for row in found],
    }
    return as_json({"$schema": _SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _rule(finding: Finding) -> dict[str, Any]:
    page = site.page(finding.code, finding.name)
    summary, explanation = _explained(finding)
    link = f"\n\n[Documentation]({page})" if page else ""
    return {
        "id": finding.code,
        "name": finding.name,
        "shortDescription": {"text": summary[:_LONGEST]},
        "fullDescription": {"text": _first_paragraph(explanation)[:_LONGEST]},
        "help": {"text": explanation, "markdown": explanation + link},
        **({"helpUri": page} if page else {}),
        "defaultConfiguration": {"level": finding.severity.value},
        "properties": {
            "tags": ["pytorch", "gradient-clipping"] if finding.code in RULES else ["clipcheck"],
            "precision": "very-high",
            "problem.severity": _PROBLEM[finding.severity],
        },
    }


def _explained(finding: Finding) -> tuple[str, str]:
    """A rule's first sentence and its whole page."""
    if finding.code in _OWN:
        return _OWN[finding.code], _OWN[finding.code]
    from clipcheck import pages
    from clipcheck.rules import page_of

    rule = RULES[finding.code]
    return pages.summary(rule) + ".", page_of(rule)


def _first_paragraph(explanation: str) -> str:
    """The text under the first heading, in one line."""
    return " ".join(explanation.rpartition("## What it does")[2].strip().split("\n\n")[0].split())


def _result(row: Row, root: str, codes: list[str], marks: _Fingerprints) -> dict[str, Any]:
    finding = row.finding
    place = in_file(row)
    artifact = _artifact(finding.path, root)
    result: dict[str, Any] = {
        "ruleId": finding.code,
        "ruleIndex": codes.index(finding.code),
        "level": finding.severity.value,
        "message": {"text": finding.message},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": artifact,
                    "region": {**_region(place), "snippet": {"text": cut(row)}},
                }
            }
        ],
        "partialFingerprints": {"primaryLocationLineHash": marks.of(row.report.path, row.report.now, place.line)},
    }
    if finding.verdict is not None:
        result["properties"] = {"verdict": str(finding.verdict)}
    if finding.related:
        result["relatedLocations"] = [
            {"id": number, "message": {"text": label}, "physicalLocation": _physical(artifact, _elsewhere(row, other))}
            for number, (other, label) in enumerate(finding.related, 1)
        ]
    if finding.fix is not None and (changes := replacements(row)):
        result["fixes"] = [_fix(finding.fix.title, artifact, changes)]
    return result


def _fix(title: str, artifact: dict[str, str], changes: Sequence[tuple[Place, str]]) -> dict[str, Any]:
    edits = [{"deletedRegion": _region(where), "insertedContent": {"text": text}} for where, text in changes]
    return {
        "description": {"text": title},
        "artifactChanges": [{"artifactLocation": artifact, "replacements": edits}],
    }


def _physical(artifact: dict[str, str], place: Place) -> dict[str, Any]:
    return {"artifactLocation": artifact, "region": _region(place)}


def _elsewhere(row: Row, place: Place) -> Place:
    return in_file(row._replace(finding=row.finding._replace(place=place)))


def _unparsed(row: Row, root: str) -> dict[str, Any]:
    location = {"artifactLocation": _artifact(row.finding.path, root), "region": _region(in_file(row))}
    return {
        "level": "error",
        "message": {"text": row.finding.message},
        "locations": [{"physicalLocation": location}],
    }


def _artifact(path: str, root: str) -> dict[str, str]:
    """The file's address, relative to the repository if it is in it; links resolved, the same in every run."""
    real = os.path.realpath(path)
    relative = below(real, root)
    if relative is None:
        return {"uri": Path(real).as_uri()}
    return {"uri": quote(os.fsencode(relative.replace(os.sep, "/"))), "uriBaseId": "SRCROOT"}


def _region(place: Place) -> dict[str, int]:
    return {
        "startLine": place.line,
        "startColumn": place.column,
        "endLine": place.end_line,
        "endColumn": place.end_column,
    }


class _Fingerprints:
    """The line hashes of each file, worked out once."""

    def __init__(self) -> None:
        self._of: dict[str, list[str]] = {}

    def of(self, path: str, data: bytes, line: int) -> str:
        if path not in self._of:
            self._of[path] = list(line_hashes(data.decode("utf-8", "replace")))
        hashes = self._of[path]
        return hashes[min(line, len(hashes)) - 1]


_BLOCK = 100  # characters that go into a line's hash
_BASE = 37
_MASK = 2**64 - 1


def line_hashes(text: str) -> Iterable[str]:
    """The hash of each line as GitHub's upload action computes it, with its running count in the file.

    A hash covers the first 100 characters from the line's start on, line ends as LF, without blanks and tabs, U+FFFF
    for the end of the file and zeros after it; characters are those of UTF-16. All of them come from one pass: with
    H(i) the hash of the first i characters, that of characters s to s+100 is H(s+100) - H(s)·37^100 mod 2^64.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace(" ", "").replace("\t", "") + "\uffff"
    units = text.encode("utf-16-le", "surrogatepass")
    numbers = [int.from_bytes(units[i : i + 2], "little") for i in range(0, len(units), 2)]
    hashes = [0]
    for number in [*numbers, *[0] * _BLOCK]:
        hashes.append((hashes[-1] * _BASE + number) & _MASK)
    shift = _BASE**_BLOCK & _MASK
    starts = [0, *(i + 1 for i, number in enumerate(numbers[:-1]) if number == 10)]
    counts: Counter[int] = Counter()
    for start in starts:
        value = (hashes[start + _BLOCK] - hashes[start] * shift) & _MASK
        counts[value] += 1
        yield f"{value:x}:{counts[value]}"
