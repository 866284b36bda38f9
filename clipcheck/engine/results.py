"""What a run gives back, as plain data that travels between processes: a report for each file, an outcome for all."""

from __future__ import annotations

from typing import NamedTuple

from clipcheck.rule import Finding, Safety
from clipcheck.settings.keys import Settings


class Task(NamedTuple):
    """A file that is worth a look, and the settings that hold for it."""

    path: str
    data: bytes
    settings: Settings


class FileReport(NamedTuple):
    """All that is known of one file after a run; plain data, so that it travels between processes.

    `data` is what the file held, `fixed_data` what it should hold after the fixes (None: unchanged). `errors` are
    clipcheck's own faults, `warnings` what is wrong with the file's suppressions, a line each. Fixes of `threshold`
    and safer are those that `--fix` applies here.
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
        """The bytes that the places of `findings` count in."""
        return self.data if self.fixed_data is None else self.fixed_data


class Outcome(NamedTuple):
    """What a whole run came to: a report for each file with something to say, and how many files were looked at.

    `candidates` is how many of them hold the words of a selected rule; the others were not parsed.
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
