"""What changed since a git revision: the files, and in them the lines."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from clipcheck.engine.results import FileReport, Outcome
from clipcheck.report.view import Row, in_file
from clipcheck.settings.keys import ConfigError

_HUNK = re.compile(r"@@ -\S+ \+(\d+)(?:,(\d+))? @@")

# The lines of a file as they are: the user's git settings and attributes may show something else, such as notebooks without outputs.
_DIFF = ("diff", "-U0", "--inter-hunk-context=0", "--no-color", "--no-ext-diff", "--no-textconv", "--text")


@dataclass(frozen=True)
class Changes:
    """Real paths of changed files with their changed lines as pairs of first and last; None for files that are new."""

    lines: dict[str, tuple[tuple[int, int], ...] | None]

    def holds(self, path: str) -> bool:
        return os.path.realpath(path) in self.lines

    def only(self, outcome: Outcome) -> Outcome:
        """The outcome without findings that touch no changed line."""
        reports = [
            one._replace(findings=tuple(f for f in one.findings if self._touches(Row(f, one), one)))
            for one in outcome.reports
        ]
        return outcome._replace(reports=tuple(reports))

    def _touches(self, row: Row, one: FileReport) -> bool:
        ranges = self.lines.get(os.path.realpath(one.path), ())
        place = in_file(row)
        return ranges is None or any(first <= place.end_line and place.line <= last for first, last in ranges)


def changes(revision: str, paths: Sequence[str]) -> Changes:
    """What differs between `revision` and the files on disk, in the repository that contains the paths. Raises ConfigError."""
    start = os.path.realpath(next((path for path in paths if os.path.exists(path)), "."))
    folder = start if os.path.isdir(start) else os.path.dirname(start)
    root = os.path.realpath(_git(folder, "rev-parse", "--show-toplevel").strip())
    # its hash, so that nothing that the user names can be taken for an option or a file
    commit = _git(root, "rev-parse", "--verify", "--quiet", revision + "^{commit}").strip()
    names = _git(root, "diff", "--name-only", "--diff-filter=d", "-z", commit).split("\0")
    new = _git(root, "ls-files", "--others", "--exclude-standard", "-z").split("\0")
    lines: dict[str, tuple[tuple[int, int], ...] | None] = {}
    for name in filter(None, names):
        hunks = _git(root, *_DIFF, commit, "--", name)
        lines[os.path.join(root, *name.split("/"))] = tuple(map(_range, _HUNK.finditer(hunks)))
    return Changes(lines | {os.path.join(root, *name.split("/")): None for name in filter(None, new)})


def _range(hunk: re.Match[str]) -> tuple[int, int]:
    """First and last line; of a pure removal, the lines on both of its sides."""
    first, count = int(hunk[1]), int(hunk[2] or 1)
    return (first, first + count - 1) if count else (first, first + 1)


def _git(folder: str, *words: str) -> str:
    try:
        done = subprocess.run(
            ["git", "--literal-pathspecs", *words],
            cwd=folder,
            capture_output=True,
            text=True,
            encoding="utf-8",
            errors="surrogateescape",
            check=False,
        )
    except FileNotFoundError:
        raise ConfigError("--since needs git, which is not installed") from None
    if done.returncode:
        revision = words[-1].removesuffix("^{commit}")
        why = done.stderr.strip().split("\n")[0] or f"git knows no revision `{revision}`"
        raise ConfigError(f"--since: {why.removeprefix('fatal: ')}")
    return done.stdout
