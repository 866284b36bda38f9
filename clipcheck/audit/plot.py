"""The norms of a run as a picture; the only part that needs matplotlib."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from clipcheck.audit.report import Report

# The color of text and lines, and that of the background.
_LIGHT, _DARK = ("#20282b", "#ffffff"), ("#d3dde0", "#1e2129")


def plot(report: Report, path: Path) -> None:
    """Writes, for each optimizer, the norm before clipping, what each step used, and `max_norm`; the suffix is the format.

    A second file, with `-dark` in its name, is for dark pages.
    """
    from matplotlib import rc_context

    names = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    for file, (ink, background) in ((path, _LIGHT), (path.with_stem(f"{path.stem}-dark"), _DARK)):
        style: Any = dict.fromkeys(names, ink) | dict.fromkeys(("figure.facecolor", "axes.facecolor"), background)
        with rc_context(style):
            _draw(report, file)


def _draw(report: Report, path: Path) -> None:
    from matplotlib.figure import Figure

    parts = [part for part in report.optimizers if part.norms.before]
    figure = Figure(figsize=(8, 3 * max(1, len(parts))), layout="constrained")
    for index, part in enumerate(parts):
        axes = figure.add_subplot(len(parts), 1, index + 1)
        norms = part.norms
        steps = range(1, len(norms.before) + 1)
        axes.plot(steps, norms.before, ".-", color="#8c8c8c", label="before clipping")
        axes.plot(steps, norms.after, ".", color="#3b8fd0", label="used by the step")
        limits = [limit if limit < math.inf else math.nan for limit in norms.limits]
        if any(limit == limit for limit in limits):
            axes.plot(steps, limits, "--", color="#d55e00", label="max_norm")
        positive = [norm for norm in (*norms.before, *norms.after) if 0 < norm < math.inf]
        if positive and max(positive) > 20 * min(positive):
            axes.set_yscale("log")
        else:
            axes.ticklabel_format(useOffset=False)
        if positive and max(positive) < 1.01 * min(positive):  # else rounding errors fill the whole height
            axes.set_ylim(0, 1.3 * max(positive))
        axes.set_title(f"{part.optimizer}, {sum(part.steps.values())} steps", loc="left")
        axes.set_xlabel("optimizer step")
        axes.set_ylabel("norm")
    labels = {
        label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(labels.values(), labels.keys(), loc="outside lower center", ncols=3, frameon=False)
    figure.savefig(path)
