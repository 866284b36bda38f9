"""The output of `--diff`: what `--fix` would change, as a unified diff."""

from __future__ import annotations

import difflib

from clipcheck import document
from clipcheck.report.text import shown
from clipcheck.run import Outcome


def report(outcome: Outcome) -> str:
    pieces: list[str] = []
    for file in outcome.reports:
        if file.fixed_data is not None:
            before, after = (document.read(file.path, data) for data in (file.data, file.fixed_data))
            name = shown(file.path)
            for old, new in zip(before.programs, after.programs, strict=True):
                lines = difflib.unified_diff(
                    old.text.splitlines(keepends=True), new.text.splitlines(keepends=True), name, name
                )
                pieces += [line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n" for line in lines]
    return "".join(pieces)
