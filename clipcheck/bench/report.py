"""The benchmark's rows as a table, as JSON and as a plot."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from clipcheck.bench.run import Row


def table(rows: list[Row]) -> str:
    """Returns aligned text: wall and device time, ratio to torch, error of the norm, and the floor."""
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
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(text.ljust(width) if index < 3 else text.rjust(width) for index, (text, width) in enumerate(line))
        for line in (list(zip(row, widths, strict=True)) for row in cells)
    ]
    return "\n".join(line.rstrip() for line in lines)


def as_json(machine: dict[str, Any], rows: list[Row]) -> str:
    """Returns `{"machine": …, "rows": […]}`; times are medians in milliseconds."""
    return json.dumps({"machine": machine, "rows": [row._asdict() for row in rows]}, indent=2) + "\n"


def plot(machine: dict[str, Any], rows: list[Row], path: Path) -> None:
    """Writes bars of the times relative to torch, shorter is faster; needs matplotlib (the `bench` extra)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    peers = [peer for peer in dict.fromkeys(row.peer for row in rows) if peer != "torch"]
    cases = list(dict.fromkeys((row.workload, row.case) for row in rows))
    ratios = {(row.workload, row.case, row.peer): row.ratio for row in rows}
    figure, axes = pyplot.subplots(figsize=(8, 1 + 0.18 * len(cases) * (len(peers) + 1)))
    height = 1 / (len(peers) + 1)
    for index, peer in enumerate(peers):
        at = [position + (index - len(peers) / 2 + 0.5) * height for position in range(len(cases))]
        values = [ratios.get((*case, peer), 0.0) for case in cases]
        axes.barh(at, values, height, label=peer, zorder=2)
    axes.axvline(1, color="black", linewidth=1, label="torch")
    axes.set_yticks(range(len(cases)), [f"{workload}\n{case}" for workload, case in cases], fontsize=8)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlabel("time relative to torch (log scale, shorter is faster)")
    axes.set_title(f"{machine['device']}, torch {machine['torch']}, {machine['date']}", fontsize=9)
    axes.grid(axis="x", alpha=0.3, zorder=0)
    axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, frameon=False)
    figure.savefig(path, bbox_inches="tight")
    pyplot.close(figure)
