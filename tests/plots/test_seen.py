"""What is drawn can be seen: curves that lie on each other, a flat one, a single point, more runs than colours."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib.colors
import matplotlib.image
import numpy as np
import pytest
from matplotlib.axes import Axes
from plots.made_runs import make_run, write_run

from aspo_megatron.plots.curves import draw_figure, draw_pictures
from aspo_megatron.plots.overlap import on_top, pieces
from aspo_megatron.plots.series import curve, read_series
from aspo_megatron.plots.styles import run_style, swatch


def pixels(picture: bytes, color: str) -> int:
    """How many pixels of a PNG have a colour."""
    found = matplotlib.image.imread(io.BytesIO(picture))[..., :3]
    return int((np.abs(found - np.array(matplotlib.colors.to_rgb(color))).max(-1) < 0.02).sum())


def panel(folder: Path, values: dict[int, float], metric: str = "entropy") -> Axes:
    return draw_figure(read_series([write_run(folder / "run", metric, values)], {})).axes[0]


@pytest.mark.parametrize("steps", [1, 40])
def test_each_of_several_identical_runs_is_seen(tmp_path: Path, steps: int) -> None:
    runs = [write_run(tmp_path / name, "entropy", {s: s / 7 + s % 3 for s in range(1, steps + 1)}) for name in "abc"]
    ((title, png),) = draw_pictures(read_series(runs, {})).panels
    assert title == "Entropy"
    counts = [pixels(png, run_style(number).color) for number in range(3)]
    assert min(counts) > (20 if steps == 1 else 300)
    assert max(counts) < 6 * min(counts)


def test_curves_are_cut_where_they_begin_to_lie_on_others(tmp_path: Path) -> None:
    made = {"a": [1.0, 2.0, 3.0, 9.0], "b": [1.0, 2.0, 3.0, 0.0], "c": [5.0, 5.0, 3.0, 0.0]}
    runs = [write_run(tmp_path / name, "entropy", dict(enumerate(values))) for name, values in made.items()]
    curves = {number: curve(one, "entropy", 1) for number, one in enumerate(read_series(runs, {}))}
    found = {
        run: [(piece.steps.tolist(), piece.turn, piece.of) for piece in parts] for run, parts in pieces(curves).items()
    }
    assert found == {
        0: [([0, 1, 2], 0, 2), ([2, 3], 0, 1)],
        1: [([0, 1, 2], 1, 2), ([2, 3], 0, 2)],
        2: [([0, 1, 2], 0, 1), ([2, 3], 1, 2)],
    }
    assert on_top(curves) == {0: 2, 1: 1, 2: 0}


def test_what_differs_by_rounding_lies_on_the_same(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"{k}", "entropy", dict.fromkeys(range(80), 0.02 * (1 + k * 1e-15))) for k in range(2)]
    curves = {number: curve(one, "entropy", None) for number, one in enumerate(read_series(runs, {}))}
    assert [[piece.of for piece in parts] for parts in pieces(curves).values()] == [[2], [2]]


def test_runs_differ_by_more_than_colour() -> None:
    looks = [run_style(number) for number in range(28)]
    assert len(set(looks)) == len({swatch(number) for number in range(28)}) == 28
    assert looks[0].dashes != looks[7].dashes
    assert (looks[0].marker, looks[7].marker) == ("", "o")
    assert run_style(28) == looks[0]


@pytest.mark.parametrize("metric", ["entropy", "reward/mean", "eval/avg@4", "clip/dual"])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_flat_curve_has_room_on_both_sides_and_plain_ticks(tmp_path: Path, metric: str, value: float) -> None:
    axes = panel(tmp_path, {step: value * (1 + 1e-9 * step) for step in range(9)}, metric)
    axes.figure.canvas.draw()
    low, high = axes.get_ylim()
    assert low <= 0.9 * value
    assert high >= 1.01 * value
    assert high - low <= (1.3 if value and metric in ("entropy", "clip/dual") else 1.2)
    assert axes.yaxis.get_offset_text().get_text() == ""
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert len(set(labels) - {""}) >= 2
    assert len(set(labels) - {""}) == len([label for label in labels if label])
    assert max(map(len, labels)) <= 6


def test_small_changes_are_no_flat_curve(tmp_path: Path) -> None:
    low, high = panel(tmp_path, {step: 1 + 1e-4 * step for step in range(9)}, "reward/mean").get_ylim()
    assert high - low < 2e-3


def test_a_single_point_has_a_mark_in_the_middle(tmp_path: Path) -> None:
    axes = panel(tmp_path, {7: 0.5})
    (mark,) = (line for line in axes.lines if line.get_marker() == "o")
    assert mark.get_markersize() >= 5
    assert axes.get_xlim() == (6.4, 7.6)
    assert axes.get_xticks().tolist() == [7]


def test_a_single_point_in_one_panel_leaves_others_their_steps(tmp_path: Path) -> None:
    """The panels of a figure share their steps."""
    figure = draw_figure(read_series([make_run(tmp_path / "run", 9, ("entropy", "grad_norm"))], {}))
    for axes in figure.axes[:3]:
        low, high = axes.get_xlim()
        assert low <= 0
        assert high >= 9


def test_shares_have_no_ticks_above_all(tmp_path: Path) -> None:
    axes = panel(tmp_path, {1: 0.2, 2: 1.0}, "clip/pos_high")
    axes.figure.canvas.draw()
    assert axes.get_ylim()[1] > 1.1  # room for the keys
    assert [label.get_text() for label in axes.get_yticklabels() if label.get_text()][-1] == "100%"


def test_names_of_many_runs_have_their_place(tmp_path: Path) -> None:
    """The legend's columns are as many as there is room for."""
    runs = [make_run(tmp_path / f"run-{number}", 2, ("entropy",)) for number in range(9)]
    figure = draw_figure(read_series(runs, {}))
    figure.canvas.draw()
    (legend,) = figure.legends
    box = legend.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1
    assert [text.get_text() for text in legend.get_texts()] == [f"run-{number}" for number in range(9)]
