"""The progress bar: on a terminal's stderr, once the work has taken a second, and gone before anything else is printed."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

_AFTER = 1.0  # seconds
_BAR = 30  # columns


@contextmanager
def progress(label: str, show: bool = True) -> Iterator[Callable[[int, int], None]]:
    """Yields a function to call with the number of steps done and of all steps; the last step clears the bar."""
    started = time.monotonic()
    on_terminal = show and sys.stderr is not None and sys.stderr.isatty()
    drawn = 0

    def step(done: int, total: int) -> None:
        nonlocal drawn
        if not on_terminal or time.monotonic() - started <= _AFTER:
            return
        drawn = _draw("" if done >= total else _bar(label, done / total), drawn)

    try:
        yield step
    finally:
        _draw("", drawn)


def _bar(label: str, part: float) -> str:
    import shutil  # and with it four modules for archives, which a check of a second has no use for

    filled = int(part * _BAR)
    bar = f"{label} [{'#' * filled}{'-' * (_BAR - filled)}] {part:4.0%}"
    return bar[: shutil.get_terminal_size().columns - 1]  # a line that wraps could not be cleared


def _draw(bar: str, drawn: int) -> int:
    """Show a line in place of one of `drawn` columns; returns its own number of columns."""
    if bar or drawn:
        with suppress(OSError):
            sys.stderr.write("\r" + bar.ljust(drawn) + ("" if bar else "\r"))
            sys.stderr.flush()
    return len(bar)
