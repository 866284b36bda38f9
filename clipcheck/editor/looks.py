"""The last check of each open document: its findings, under the settings in force now."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import NamedTuple

from clipcheck.editor.opened import Opened
from clipcheck.engine.file import check_text
from clipcheck.engine.results import FileReport
from clipcheck.rule import INVALID_SYNTAX
from clipcheck.settings.keys import Layer, Settings
from clipcheck.settings.projects import Projects


class Look(NamedTuple):
    """The result of a check of an open document, and what was checked.

    `python` is the last text that was valid Python: what is half typed is read with its help.
    """

    text: str
    settings: Settings
    report: FileReport
    python: str


def look(at: Opened, settings: Settings, last: Look | None) -> Look:
    """The findings in an open document: those of the last check, if nothing has changed since."""
    if last is not None and (last.text, last.settings) == (at.text, settings):
        return last
    before = last.python if last is not None else ""
    report = run(at, settings, before)
    broken = any(finding.code == INVALID_SYNTAX for finding in report.findings)
    return Look(at.text, settings, report, before if broken else at.text)


def run(at: Opened, settings: Settings, before: str = "") -> FileReport:
    """One run of the engine; whatever goes wrong in it is an error of the report and does not stop the server."""
    try:
        return check_text(at.path, at.text, settings, before)
    except Exception as error:
        return FileReport(at.path, b"", errors=(f"{at.path}: {type(error).__name__}: {error}",))


def settings_of(path: str) -> Settings:
    """The settings of a file: read again at each check, so that no change of a settings file goes unnoticed.

    Raises ConfigError.
    """
    project = Projects(Layer({}, os.getcwd()), Settings()).of(path)
    settings = project.for_file(path)
    return replace(settings, codes=frozenset(), report_unused=False) if project.excludes(path) else settings
