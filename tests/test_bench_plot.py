"""The benchmark's plot: what is drawn where, in which colors, for light pages and for dark ones."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from matplotlib import rcParams
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from clipcheck import plots
from clipcheck.bench import plot
from clipcheck.bench.run import Row

MACHINE = {"device": "a CPU", "torch": "2.13", "date": "today"}
INK = {"plot": "#20282b", "plot-dark": "#d3dde0"}
PAGE = {"plot": "#ffffff", "plot-dark": "#1e2129"}
GRID = {"plot": "#b8c2c6", "plot-dark": "#5b676c"}


def row(workload: str, case: str, peer: str, ratio: float = 0.5) -> Row:
    return Row(workload, case, peer, 1.0, None, ratio, None, 0.1)


MANY = [row(f"load {n}", case, peer, 1.0 if peer == "torch" else 0.5)
        for n in range(6) for case in ("no clip", "clip") for peer in ("torch", "clipcheck", "a loop")]  # fmt: skip


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The figures that are saved, by the name of the file."""
    saved: dict[str, Any] = {}
    real = Figure.savefig

    def save(figure: Figure, path: Path, **how: Any) -> None:
        saved[path.stem] = figure
        real(figure, path, **how)

    monkeypatch.setattr(Figure, "savefig", save)
    return saved


def drawn(figures: dict[str, Any], tmp_path: Path, rows: list[Row]) -> tuple[Any, list[Any]]:
    """The axes of the plot for light pages, and the bars of each peer."""
    plot.draw(MACHINE, rows, tmp_path / "plot.svg")
    axes = figures["plot"].axes[0]
    return axes, list(axes.containers)


def test_texts_axes_and_background_have_the_colors_of_the_page(tmp_path: Path) -> None:
    seen: dict[str, Any] = {}
    plots.for_both(tmp_path / "plot.svg", lambda file, _: seen.update({file.stem: dict(rcParams)}))
    texts = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    for name, found in seen.items():
        assert {found[key] for key in texts} == {INK[name]}
        assert {found["figure.facecolor"], found["axes.facecolor"]} == {PAGE[name]}
    assert list(seen) == ["plot", "plot-dark"]


def test_a_file_for_light_pages_and_one_for_dark_pages(tmp_path: Path) -> None:
    light, dark = plot.draw(MACHINE, MANY, tmp_path / "plot.svg")
    assert (light.name, dark.name) == ("plot.svg", "plot-dark.svg")
    for file in (light, dark):
        text = file.read_text(encoding="utf-8")
        assert text.count(">torch<") == 1  # the line that the others are measured by, and no bar
        for words in (
            "time relative to torch",
            "gradients and case",
            "load 5, clip",
            "a CPU, torch 2.13, today",
            "a loop",
        ):
            assert f">{words}" in text  # as text, which can be searched
        assert apart(text, [f"load {n}, {case}" for n in range(6) for case in ("no clip", "clip")])


def apart(text: str, labels: list[str]) -> bool:
    """Whether the baselines of labels are more than a line's height from each other."""
    heights = sorted(
        float(found[1])
        for label in labels
        if (found := re.search(rf'<text[^>]*y="([\d.]+)"[^>]*>{label}<', text)) is not None
    )
    assert len(heights) == len(labels)
    return all(lower - upper > 8 for upper, lower in pairwise(heights))


def test_the_same_rows_give_the_same_file(tmp_path: Path) -> None:
    first, second = (plot.draw(MACHINE, MANY, tmp_path / f"{n}.svg")[0].read_bytes() for n in (1, 2))
    assert first == second
    assert b"<dc:date>" not in first


def test_a_png_can_be_drawn_as_well(tmp_path: Path) -> None:
    for file in plot.draw(MACHINE, MANY[:3], tmp_path / "plot.png"):
        assert file.read_bytes().startswith(b"\x89PNG")


def test_text_and_axes_have_the_colors_of_the_page(figures: dict[str, Any], tmp_path: Path) -> None:
    plot.draw(MACHINE, MANY, tmp_path / "plot.svg")
    for name, figure in figures.items():
        axes = figure.axes[0]
        texts = [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.get_yticklabels(), *axes.get_xticklabels(), *figure.legends[0].get_texts()]  # fmt: skip
        assert {to_hex(text.get_color()) for text in texts} == {INK[name]}
        assert {to_hex(spine.get_edgecolor()) for spine in axes.spines.values()} == {INK[name]}
        assert to_hex(figure.get_facecolor()) == to_hex(axes.get_facecolor()) == PAGE[name]
        lines = [line for line in axes.get_xgridlines() if line.get_visible()]
        assert lines and {(to_hex(line.get_color()), line.get_alpha()) for line in lines} == {(GRID[name], 0.5)}
        assert not any(line.get_visible() for line in axes.get_ygridlines())
        (torch_line,) = [line for line in axes.lines if line.get_label() == "torch"]
        assert to_hex(torch_line.get_color()) == INK[name]
        assert not figure.legends[0].get_frame_on()


def test_the_bars_of_a_case_are_side_by_side_around_its_label(figures: dict[str, Any], tmp_path: Path) -> None:
    rows = [
        row("load", case, peer, ratio)
        for case in ("no clip", "clip")
        for peer, ratio in (("torch", 1.0), ("clipcheck", 0.5), ("a loop", 3.0))
        if (case, peer) != ("clip", "a loop")
    ]
    axes, (ours, loop) = drawn(figures, tmp_path, rows)
    assert [text.get_text() for text in axes.get_yticklabels()] == ["load, no clip", "load, clip"]
    assert list(axes.get_yticks()) == [0, 1]
    assert [bars.get_label() for bars in (ours, loop)] == ["clipcheck", "a loop"]
    ends = [[(bar.get_x(), bar.get_x() + bar.get_width()) for bar in bars] for bars in (ours, loop)]
    assert ends == [[(1, 0.5), (1, 0.5)], [(1, 3.0), (1, 1.0)]]  # from torch's time on; one was not measured
    height = ours[0].get_height()
    assert 2 * height < 1
    for number, (first, second) in enumerate(zip(ours, loop, strict=True)):
        assert second.get_y() - first.get_y() == pytest.approx(height)
        assert first.get_y() + height == pytest.approx(number)  # they touch at the label


def test_the_first_case_is_on_top_and_half_as_long_is_as_far_as_twice(figures: dict[str, Any], tmp_path: Path) -> None:
    axes, (ours, _) = drawn(figures, tmp_path, MANY)
    assert axes.get_xscale() == "log"
    bottom, top = axes.get_ylim()
    assert bottom > 11 > 0 > top
    assert bottom - 11 < 1 and top > -1  # and there is not much room around them
    assert [axes.xaxis.get_major_formatter()(value, 0) for value in (0.5, 1.0, 20.0)] == ["0.5 ×", "1 ×", "20 ×"]
    assert axes.xaxis.get_minor_formatter()(0.3, 0) == ""
    (line,) = [line for line in axes.lines if line.get_label() == "torch"]
    assert set(line.get_xdata()) == {1}
    assert line.get_zorder() > ours[0].get_zorder() > min(grid.get_zorder() for grid in axes.get_xgridlines())


def test_each_peer_has_a_color_of_its_own_as_long_as_there_are_some(figures: dict[str, Any], tmp_path: Path) -> None:
    _, containers = drawn(figures, tmp_path, [row("load", "clip", f"peer {n}") for n in range(8)])
    colors = [to_hex(bars[0].get_facecolor()) for bars in containers]
    assert len(set(colors[:6])) == 6
    assert colors[6:] == colors[:2]
    assert colors[:2] == ["#009e73", "#e69f00"]  # https://jfly.uni-koeln.de/color: green and orange


def test_a_plot_of_more_cases_is_higher(figures: dict[str, Any], tmp_path: Path) -> None:
    sizes = []
    for rows in (MANY, MANY[: len(MANY) // 2]):
        drawn(figures, tmp_path, rows)
        sizes.append(figures["plot"].get_size_inches())
    assert sizes[0][0] == sizes[1][0] == 8
    assert sizes[0][1] - sizes[1][1] == pytest.approx(6 * 3 * 0.13)
    assert all(math.isfinite(side) and 2 < side < 10 for size in sizes for side in size)


def test_no_figure_stays_open(tmp_path: Path) -> None:
    from matplotlib import pyplot

    plot.draw(MACHINE, MANY[:3], tmp_path / "plot.svg")
    assert pyplot.get_fignums() == []
