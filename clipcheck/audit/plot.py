"""The norms of a run as a picture; the only part that needs matplotlib."""

from __future__ import annotations

import math
from pathlib import Path

from clipcheck.audit.report import Report


def plot(report: Report, path: Path) -> None:
    """Writes, for each optimizer, the norm before clipping, what each step used, and the limit; the suffix is the format."""
    from matplotlib.figure import Figure

    parts = [part for part in report.parts if part.norms.before]
    figure = Figure(figsize=(8, 3 * max(1, len(parts))), layout="constrained")
    for index, part in enumerate(parts):
        axes = figure.add_subplot(len(parts), 1, index + 1)
        norms = part.norms
        steps = range(1, len(norms.before) + 1)
        axes.plot(steps, norms.before, ".-", color="tab:gray", label="norm of the gradients")
        axes.plot(steps, norms.after, ".", color="tab:blue", label="what the step used")
        limits = [limit if limit < math.inf else math.nan for limit in norms.limits]
        if any(limit == limit for limit in limits):
            axes.plot(steps, limits, "--", color="tab:red", label="max_norm")
        positive = [norm for norm in (*norms.before, *norms.after) if 0 < norm < math.inf]
        if positive and max(positive) > 20 * min(positive):
            axes.set_yscale("log")
        axes.set_title(f"{part.optimizer.name}, {sum(part.steps.values())} steps", loc="left")
        axes.set_xlabel("step")
        axes.legend(frameon=False)
    figure.savefig(path)
