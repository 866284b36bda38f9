"""The rows of `clipcheck verify` as a table of at most 100 columns, and as JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence

from clipcheck.verify.pairs import Row

WIDTH = 100
_HEAD = ("fixture", "claim", "verdict", "difference", "nearer", "time")
_LEGEND = "difference: largest, relative; nearer: to a run in float64; time: after / before, lower is faster"


def table(rows: Sequence[Row]) -> str:
    """One line per pair with reasons and notes below it, and a summary line."""
    cells = [_cells(row) for row in rows]
    widths = [max(len(row[i]) for row in (_HEAD, *cells)) for i in range(len(_HEAD))]
    lines = [_line(_HEAD, widths)]
    for row, line in zip(rows, cells, strict=True):
        lines.append(_line(line, widths))
        for remark in (row.outcome.reason, *row.outcome.notes):
            lines += textwrap.wrap(remark, WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join([*lines, "", _summary(rows), ""])


def failed(rows: Sequence[Row]) -> bool:
    return any(row.outcome.holds is False for row in rows)


def as_json(rows: Sequence[Row]) -> str:
    return json.dumps([_as_dict(row) for row in rows], indent=2, sort_keys=True)


def _cells(row: Row) -> tuple[str, ...]:
    outcome = row.outcome
    return (
        row.name,
        row.claim.kind if row.claim else "none",
        outcome.verdict,
        "" if outcome.difference is None else f"{outcome.difference:.1e}" if outcome.difference else "bitwise",
        outcome.nearer,
        "" if outcome.speed is None else f"{outcome.speed:.2f}x",
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


def _summary(rows: Sequence[Row]) -> str:
    held, broken, untried = (sum(row.outcome.holds is value for row in rows) for value in (True, False, None))
    return f"{_LEGEND}\n{held} held, {broken} failed, {untried} not verified here."


def _as_dict(row: Row) -> dict[str, object]:
    outcome = row.outcome
    return {
        "claim": row.claim.kind if row.claim else None,
        "difference": outcome.difference,
        "fixture": row.name,
        "nearer": outcome.nearer or None,
        "notes": list(outcome.notes),
        "reason": outcome.reason or None,
        "time_ratio": outcome.speed,
        "verdict": {True: "holds", False: "fails", None: "not-verified-here"}[outcome.holds],
    }
