"""The results of a run, as plain data that can be sent between processes: a report per file, an outcome for all."""

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
    """The result for one file, as plain data that can be sent between processes.

    `data` is the file's content, `fixed_data` its content after the fixes (None: unchanged). `errors` are clipcheck's
    own errors, `warnings` are problems with suppression comments, one line each. `--fix` applies fixes that are at
    least as safe as `threshold`.
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
        """The bytes to which the positions of `findings` refer."""
        return self.data if self.fixed_data is None else self.fixed_data


class Outcome(NamedTuple):
    """The result of a whole run: a report for each file with findings, and the number of checked files.

    `candidates` is the number of files with keywords of a selected rule; the others were not parsed.
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
