"""The benchmark's rows as a table and as JSON."""

from __future__ import annotations

import json
from typing import Any

from clipcheck.bench.run import Row


def table(rows: list[Row]) -> str:
    """Returns aligned text: wall and device time, ratio to torch, error of the norm, and the floor.

    A column that is empty on this device, or for this benchmark, is left out.
    """
    cells = [("workload", "case", "", "wall ms", "device ms", "to torch", "error", "floor ms")]
    cells += [
        (
            row.workload,
            row.case,
            row.peer,
            f"{row.wall_ms:.3f}",
            "" if row.device_ms is None else f"{row.device_ms:.3f}",
            f"{row.ratio:.2f}",
            "" if row.error is None else f"{row.error:.0e}",
            f"{row.floor_ms:.3f}",
        )
        for row in rows
    ]
    columns = [
        _aligned(column, left=index < 3) for index, column in enumerate(zip(*cells, strict=True)) if any(column[1:])
    ]
    return "\n".join("  ".join(line).rstrip() for line in zip(*columns, strict=True))


def _aligned(column: tuple[str, ...], left: bool) -> list[str]:
    width = max(map(len, column))
    return [text.ljust(width) if left else text.rjust(width) for text in column]


def as_json(machine: dict[str, Any], rows: list[Row]) -> str:
    """Returns `{"machine": …, "rows": […]}`; times are medians in milliseconds."""
    return json.dumps({"machine": machine, "rows": [row._asdict() for row in rows]}, indent=2) + "\n"
