"""The benchmark's rows as bars of the times relative to torch, for light pages and for dark ones; needs matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipcheck import plots
from clipcheck.bench.run import Row

# Distinguishable without seeing red and green, on both backgrounds (Okabe and Ito).
_COLORS = ("#009e73", "#e69f00", "#56b4e9", "#cc79a7", "#d55e00", "#8c8c8c")


def draw(machine: dict[str, Any], rows: list[Row], path: Path) -> tuple[Path, Path]:
    """Writes `path` for light pages and a file of its name with `-dark` for dark ones; returns both paths."""
    return plots.for_both(path, lambda file, colors: _draw(machine, rows, file, colors))


def _draw(machine: dict[str, Any], rows: list[Row], path: Path, colors: dict[str, str]) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, NullFormatter

    peers = [peer for peer in dict.fromkeys(row.peer for row in rows) if peer != "torch"]
    cases = list(dict.fromkeys((row.workload, row.case) for row in rows))
    ratios = {(row.workload, row.case, row.peer): row.ratio for row in rows}
    with pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": ""}):
        inches = 1.6 + 0.13 * len(cases) * (len(peers) + 1)
        figure, axes = pyplot.subplots(figsize=(8, inches), layout="constrained")
        height = 1 / (len(peers) + 1)
        for index, peer in enumerate(peers):
            at = [position + (index - len(peers) / 2 + 0.5) * height for position in range(len(cases))]
            # from torch's time on: left of the line is faster, and a peer that was not measured has no bar
            lengths = [ratios.get((*case, peer), 1.0) - 1 for case in cases]
            axes.barh(at, lengths, height, left=1, label=peer, color=_COLORS[index % len(_COLORS)], zorder=2)
        axes.axvline(1, color=colors["text"], linewidth=1, label="torch", zorder=3)
        axes.set_yticks(range(len(cases)), [f"{workload}, {case}" for workload, case in cases], fontsize=8)
        axes.margins(y=0.01)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} ×"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("time relative to torch (log scale; left of the line is faster)")
        axes.set_ylabel("gradients and case")
        axes.set_title(f"{machine['device']}, torch {machine['torch']}, {machine['date']}", fontsize=9)
        axes.grid(axis="x", color=colors["grid"], alpha=0.5, zorder=0)
        figure.legend(fontsize=8, loc="outside lower center", ncols=3, frameon=False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
        pyplot.close(figure)
