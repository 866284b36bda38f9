"""The format `junit`: one test suite per file, one failed test per finding, and one passed test for a clean run."""

from __future__ import annotations

import os
import re
from xml.etree import ElementTree as Xml

from clipcheck.engine.results import Outcome
from clipcheck.report.view import Row, View, by_file, in_file
from clipcheck.report.visible import as_xml, visible

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def report(outcome: Outcome, view: View) -> str:
    groups = list(by_file(outcome))
    count = sum(len(group) for _, group in groups)
    root = Xml.Element("testsuites", name="clipcheck", tests=str(count or 1), failures=str(count), errors="0")
    for path, group in groups:
        suite = _suite(root, os.path.abspath(path), len(group), len(group))
        for row in group:
            _case(suite, row)
    if not groups:
        Xml.SubElement(_suite(root, "clipcheck", 1, 0), "testcase", name="no problems found", classname="clipcheck")
    Xml.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + as_xml(Xml.tostring(root, encoding="unicode")) + "\n"


def _suite(root: Xml.Element, name: str, tests: int, failures: int) -> Xml.Element:
    counts = {"name": _clean(name), "tests": str(tests), "failures": str(failures), "errors": "0", "skipped": "0"}
    return Xml.SubElement(root, "testsuite", counts)


def _case(suite: Xml.Element, row: Row) -> None:
    finding, place = row.finding, in_file(row)
    case = Xml.SubElement(
        suite,
        "testcase",
        name=f"clipcheck.{finding.code}",
        classname=_clean(os.path.splitext(os.path.abspath(finding.path))[0]),
        line=str(place.line),
        column=str(place.column),
    )
    failure = Xml.SubElement(case, "failure", message=_clean(finding.message), type=finding.severity.value)
    failure.text = _clean(f"line {place.line}, col {place.column}, {finding.message}")


def _clean(text: str) -> str:
    return _NOT_XML.sub("\ufffd", visible(text))
