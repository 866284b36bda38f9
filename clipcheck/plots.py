"""Pictures for light pages and for dark ones; needs matplotlib."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

LIGHT = {"text": "#20282b", "background": "#ffffff", "grid": "#b8c2c6"}
DARK = {"text": "#d3dde0", "background": "#1e2129", "grid": "#5b676c"}
_TEXTS = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")


def for_both(path: Path, draw: Callable[[Path, dict[str, str]], None]) -> tuple[Path, Path]:
    """Draws to `path` for light pages and to a file of its name with `-dark` for dark ones; returns both paths.

    `draw` is given the file and the colors, which its text, axes and background have already.
    """
    from matplotlib import rc_context

    dark = path.with_stem(f"{path.stem}-dark")
    for file, colors in ((path, LIGHT), (dark, DARK)):
        style: Any = dict.fromkeys(_TEXTS, colors["text"])
        style |= dict.fromkeys(("figure.facecolor", "axes.facecolor"), colors["background"])
        with rc_context(style):
            draw(file, colors)
    return path, dark
