"""The result of a run, as plain data that travels between processes: a report for each file, an outcome for all."""

from __future__ import annotations

from typing import NamedTuple

from clipcheck.rule import Finding, Safety
from clipcheck.settings.keys import Settings


class Task(NamedTuple):
    """A file to check, and its settings."""

    path: str
    data: bytes
    settings: Settings


class FileReport(NamedTuple):
    """The result for one file, as plain data that travels between processes.

    `data` is the file's content, `fixed_data` its content after the fixes (None: unchanged). `errors` are faults of
    clipcheck, `warnings` problems with the file's suppression comments, one line each. `--fix` applies fixes of
    `threshold` and safer.
    """

    path: str
    data: bytes
    findings: tuple[Finding, ...] = ()
    fixed: tuple[Finding, ...] = ()
    fixed_data: bytes | None = None
    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    threshold: Safety = Safety.SAFE

    @property
    def now(self) -> bytes:
        """The bytes that the places of `findings` refer to."""
        return self.data if self.fixed_data is None else self.fixed_data


class Outcome(NamedTuple):
    """The result of a whole run: a report for each file with findings, and how many files were checked.

    `candidates` is how many of them contain the keywords of a selected rule; the others were not parsed.
    """

    reports: tuple[FileReport, ...]
    files: int
    errors: tuple[str, ...] = ()
    candidates: int = 0

    @property
    def findings(self) -> list[Finding]:
        return sorted((f for report in self.reports for f in report.findings), key=lambda f: f.order)

    @property
    def fixed(self) -> list[Finding]:
        return sorted((f for report in self.reports for f in report.fixed), key=lambda f: f.order)

    @property
    def warnings(self) -> list[str]:
        return [warning for report in self.reports for warning in report.warnings]
