"""The norms of a run as a picture; the only part that needs matplotlib."""

from __future__ import annotations

import math
from pathlib import Path

from clipcheck import plots
from clipcheck.audit.report import Report


def plot(report: Report, path: Path) -> None:
    """Writes, for each optimizer, the norm before clipping, what each step used, and `max_norm`; the suffix is the format.

    A second file, with `-dark` in its name, is for dark pages.
    """
    plots.for_both(path, lambda file, _: _draw(report, file))


def _draw(report: Report, path: Path) -> None:
    from matplotlib.figure import Figure

    parts = [part for part in report.optimizers if part.norms.before]
    figure = Figure(figsize=(8, 3 * max(1, len(parts))), layout="constrained")
    for index, part in enumerate(parts):
        axes = figure.add_subplot(len(parts), 1, index + 1)
        before, after = part.norms.before, part.norms.after
        steps = range(1, len(before) + 1)
        axes.plot(steps, before, ".-", color="#8c8c8c", label="before clipping")
        axes.plot(steps, after, ".", color="#3b8fd0", label="used by the step")
        if any(limit < math.inf for limit in part.norms.limits):
            axes.plot(steps, part.norms.limits, "--", color="#d55e00", label="max_norm")
        positive = [norm for norm in (*before, *after) if 0 < norm < math.inf]
        if positive and max(positive) > 20 * min(positive):
            axes.set_yscale("log")
        elif positive and max(positive) < 1.01 * min(positive):  # else rounding errors fill the whole height
            axes.set_ylim(0, 1.3 * max(positive))
        axes.set(title=f"{part.optimizer}, {sum(part.steps.values())} steps", xlabel="optimizer step", ylabel="norm")
    labels = {
        label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path)
