"""The audit: watches what clipping does in a real training, and reports it under the rules' codes.

with clipcheck.audit.watching() as audit:
    train()
print(audit.report())
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from clipcheck.audit.report import Report, report
from clipcheck.audit.watch import Watch

__all__ = ["Audit", "Report", "watching"]


class Audit:
    """What `watching` gives: asks the watch for its report."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    def report(self) -> Report:
        """What was seen. `str` of it is the text, `exit_code` 0, 1 or 2; it ends the watch, if that still runs."""
        return report(self._watch.end())


@contextmanager
def watching(steps: int = 200) -> Iterator[Audit]:
    """Watches until the end of the block, for so many optimizer steps at most; training stays as it is, bit for bit.

    What is seen of a step takes about 1 KB of memory for each parameter until the end of the block.
    """
    watch = Watch(steps).begin()
    try:
        yield Audit(watch)
    finally:
        watch.end()
