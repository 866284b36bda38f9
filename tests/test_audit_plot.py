"""The audit's plot: what is drawn of each optimizer, and on which scale."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from clipcheck.audit import plot, report
from clipcheck.audit.figures import Norms


def part(before: list[float], after: list[float], limits: list[float], name: str = "SGD", **steps: int) -> report.Part:
    counted = steps or {"clipped": len(before)}
    return report.Part(name, "train.py:3", 2, counted, [], [], Norms(before, after, limits, 0), None)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Draws a report of these optimizers; returns the figure."""
    saved: list[tuple[Figure, Path]] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path: saved.append((figure, path)))

    def draw(*parts: report.Part) -> Figure:
        plot.plot(report.Report(3, 1.0, list(parts), [], [], []), tmp_path / "norms.svg")
        assert [path.name for _, path in saved[-2:]] == ["norms.svg", "norms-dark.svg"]
        return saved[-2][0]

    return draw


def lines(figure: Figure, index: int = 0) -> dict[str, tuple[list[float], list[float]]]:
    """The points of each line of an optimizer, by its label."""
    return {
        str(line.get_label()): (list(line.get_xdata()), list(line.get_ydata())) for line in figure.axes[index].lines
    }


def test_norms_before_and_after_and_the_limit(drawn: Any) -> None:
    figure = drawn(part([3.0, 2.0, 0.5], [1.0, 1.0, 0.5], [1.0, 1.0, 1.0], clipped=2, unclipped=1))
    steps = [1, 2, 3]
    assert lines(figure) == {
        "before clipping": (steps, [3.0, 2.0, 0.5]),
        "used by the step": (steps, [1.0, 1.0, 0.5]),
        "max_norm": (steps, [1.0, 1.0, 1.0]),
    }
    (axes,) = figure.axes
    assert (axes.get_title(), axes.get_xlabel(), axes.get_ylabel()) == ("SGD, 3 steps", "optimizer step", "norm")
    assert {line.get_label(): (line.get_marker(), line.get_linestyle()) for line in axes.lines} == {
        "before clipping": (".", "-"),
        "used by the step": (".", "None"),
        "max_norm": ("None", "--"),
    }
    assert len({line.get_color() for line in axes.lines}) == 3
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "before clipping",
        "used by the step",
        "max_norm",
    ]
    assert not figure.legends[0].get_frame_on()
    assert tuple(figure.get_size_inches()) == (8, 3)


def test_without_a_limit_none_is_drawn(drawn: Any) -> None:
    assert set(lines(drawn(part([3.0], [3.0], [math.inf])))) == {"before clipping", "used by the step"}
    assert "max_norm" in lines(drawn(part([3.0, 3.0], [3.0, 1.0], [math.inf, 1.0])))


def test_optimizers_one_below_the_other_with_one_legend(drawn: Any) -> None:
    """Of one without norms there is nothing to draw."""
    figure = drawn(part([3.0], [1.0], [1.0]), part([], [], [], "Nothing"), part([2.0], [2.0], [math.inf], "Adam"))
    assert [axes.get_title() for axes in figure.axes] == ["SGD, 1 steps", "Adam, 1 steps"]
    upper, lower = (axes.get_subplotspec().get_geometry() for axes in figure.axes)
    assert (upper, lower) == ((2, 1, 0, 0), (2, 1, 1, 1))
    assert tuple(figure.get_size_inches()) == (8, 6)
    assert len(figure.legends[0].get_texts()) == 3


def test_a_run_without_norms_has_an_empty_figure(drawn: Any) -> None:
    figure = drawn(part([], [], []))
    assert figure.axes == [] and tuple(figure.get_size_inches()) == (8, 3)


@pytest.mark.parametrize(
    ("before", "after", "scale", "height"),
    [
        ([20.0, 3.0], [1.0, 1.0], "linear", None),
        ([20.1, 3.0], [1.0, 1.0], "log", None),
        ([20.1, math.nan], [1.0, math.nan], "log", None),
        ([5.0, math.inf], [5.0, math.inf], "linear", 6.5),
        ([5.0, 0.0], [5.0, 0.0], "linear", 6.5),
        ([5.0, 5.04], [5.0, 5.04], "linear", 1.3 * 5.04),  # else rounding errors fill the whole height
        ([5.0, 5.06], [5.0, 5.06], "linear", None),
        ([math.nan], [math.nan], "linear", None),
    ],
)
def test_the_scale_of_norms(
    before: list[float], after: list[float], scale: str, height: float | None, drawn: Any
) -> None:
    (axes,) = drawn(part(before, after, [math.inf] * len(before))).axes
    assert axes.get_yscale() == scale
    assert bool(axes.get_ylim()[0] == 0) is (height is not None)
    if height is not None:
        assert axes.get_ylim() == pytest.approx((0, height))
