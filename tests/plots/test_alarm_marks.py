"""The alarms of runs in their plots: marks in the right panel at the right step, notes, lists; none with them off."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from rich.console import Console

from aspo_megatron.metrics.alarms import ALARMS
from aspo_megatron.metrics.alarms.alarm import Alarm
from aspo_megatron.metrics.record import Recorder
from aspo_megatron.plots.alarms.marks import alarm_notes
from aspo_megatron.plots.alarms.told import in_panel, told_of
from aspo_megatron.plots.curves import draw_figure, draw_pictures
from aspo_megatron.plots.page import plot_page
from aspo_megatron.plots.panels import panels_of
from aspo_megatron.plots.series import read_series
from aspo_megatron.plots.styles import run_style
from aspo_megatron.plots.text import print_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STEP = {
    "reward/mean": 0.4, "reward/failed": 0.0, "groups/all_agree": 0.2, "response_tokens/mean": 50.0,
    "response_tokens/cut": 0.0, "repetition/mean": 0.1, "entropy": 0.6, "kl_ref": 0.05, "approx_kl": 0.01,
    "clip/fraction": 0.03, "clip/pos_high": 0.02, "clip/neg_low": 0.02, "response_ratio/pos": 1.0, "grad_norm": 0.5,
}  # fmt: skip
COLLAPSED = {
    "entropy": 0.01, "repetition/mean": 0.9, "kl_ref": 200.0, "approx_kl": 30.0, "clip/fraction": 0.9,
    "response_tokens/mean": 5.0,
}  # fmt: skip


def make(folder: Path, config: str = "", collapse: int = 8, steps: int = 12, **changes: float) -> Path:
    """A run whose metrics change from the step `collapse` on."""
    changed = changes or COLLAPSED
    with Recorder(folder, tensorboard=False) as recorder:
        recorder.log(0, {"eval/avg@4": 0.6})
        for step in range(1, steps + 1):
            recorder.log(step, STEP | (changed if step >= collapse else {}))
    if config:
        (folder / "config.yaml").write_text(config)
    return folder


def marks(figure: Figure) -> dict[str, list[float]]:
    """Panel -> the steps of its triangles; each has its line."""
    found = {}
    for axes in figure.axes:
        steps = artists(axes, "alarm")
        assert artists(axes, "alarm line") == steps
        if steps:
            found[axes.get_title()] = steps
    return found


def artists(axes: Axes, kind: str) -> list[float]:
    return [float(np.asarray(line.get_xdata())[0]) for line in axes.lines if line.get_gid() == kind]


def text_of(folder: Path, *more: Path) -> str:
    file = io.StringIO()
    print_figure(read_series([folder, *more], {}), Console(file=file, width=80))
    return file.getvalue()


def test_each_alarm_is_marked_in_the_panel_of_its_metric_where_it_was_raised_first(tmp_path: Path) -> None:
    figure = draw_figure(read_series([make(tmp_path / "run")], {}))
    assert marks(figure) == {
        "Entropy": [8.0],
        "Repetition rate": [8.0],
        "Out of the clip range, A > 0": [8.0],
        "Out of the clip range, A < 0": [8.0],
        "Mean ratio": [8.0],
        "KL to the starting model": [8.0],
        "Response length": [8.0],
    }
    (entropy,) = [axes for axes in figure.axes if axes.get_title() == "Entropy"]
    (triangle,) = [line for line in entropy.lines if line.get_gid() == "alarm"]
    assert triangle.get_marker() == "v"
    assert np.asarray(triangle.get_ydata()).tolist() == [1.0]
    assert triangle.get_transform() == entropy.get_xaxis_transform()  # the top, whatever the axis
    slow = draw_figure(read_series([make(tmp_path / "slow", entropy=0.1)], {}))
    assert marks(slow) == {"Entropy": [10.0]}  # the third step in a row


def test_marks_leave_the_axes_as_they_are(tmp_path: Path) -> None:
    on = draw_figure(read_series([make(tmp_path / "run")], {}))
    off = draw_figure(read_series([make(tmp_path / "off", "log: {alarms: false}\n")], {}))
    assert marks(off) == {}
    ends = [[(axes.get_xlim(), axes.get_ylim()) for axes in figure.axes] for figure in (on, off)]
    assert ends[0] == ends[1]
    (note,) = [text.get_text() for text in off.texts if "not recorded" in text.get_text()]
    assert "alarm" not in note


def test_held_out_accuracy_is_marked_whatever_the_number_of_samples(tmp_path: Path) -> None:
    with Recorder(tmp_path / "run", tensorboard=False) as recorder:
        for step in range(1, 9):
            recorder.log(step, STEP | {"eval/avg@16": 0.7 if step < 6 else 0.4})
    assert marks(draw_figure(read_series([tmp_path / "run"], {}))) == {"Held-out accuracy": [6.0]}


def test_of_a_group_each_run_has_its_own_marks_and_several_series_their_colours(tmp_path: Path) -> None:
    one, other = make(tmp_path / "a1", entropy=0.01), make(tmp_path / "a2", collapse=5, entropy=0.01)
    alone = make(tmp_path / "b", collapse=11, entropy=0.01)
    series = read_series([alone], {"a": [one, other]})
    figure = draw_figure(series)
    assert marks(figure) == {"Entropy": [11.0, 8.0, 5.0]}
    (axes,) = [axes for axes in figure.axes if axes.get_title() == "Entropy"]
    colours = [line.get_color() for line in axes.lines if line.get_gid() == "alarm line"]
    assert colours == [run_style(0).color, run_style(1).color, run_style(1).color]
    note = "\n".join(text.get_text() for text in figure.texts)
    found = re.sub(r"\s+", " ", note)
    assert "b: local optimum (step 11); a (a1): local optimum (step 8); a (a2): local optimum (step 5)" in found


def test_the_note_below_a_figure_is_short(tmp_path: Path) -> None:
    runs = [make(tmp_path / f"run{number}") for number in range(6)]
    notes = alarm_notes(told_of(read_series(runs, {})), width=100)
    assert max(map(len, notes)) <= 100
    assert " ".join(notes).endswith("; and in 3 more runs")
    assert alarm_notes([]) == []


def test_the_page_lists_them_with_what_to_do(tmp_path: Path) -> None:
    run = make(tmp_path / "run", "optimizer: {lr: 2.0e-06}\nloss: {kl_coef: '<b>'}\n", entropy=0.01)
    series = read_series([run], {})
    page = plot_page(series, draw_pictures(series))
    assert "<h2>Alarms</h2>" in page
    (entry,) = re.findall(r"<li><b>step 8: local optimum</b>: (.*)</li>", page)
    assert entry.startswith(
        "the entropy has fallen (0.01 nats per token, 0.6 at the start) and the reward has not risen"
    )
    assert "lower optimizer.lr=2e-06, or raise loss.kl_coef=&lt;b&gt;" in entry
    assert "Red triangles in the pictures" in page
    (run / "config.yaml").write_text("log: {alarms: false}\n")
    assert "larm" not in plot_page(series, draw_pictures(series)).replace(".alarms b {", "").replace("log.alarms", "")


def test_the_text_lists_them_with_what_to_do(tmp_path: Path) -> None:
    run = make(tmp_path / "run", entropy=0.01)
    text = text_of(run)
    assert max(map(len, text.splitlines())) <= 80
    joined = re.sub(r"\s+", " ", text)
    assert "Alarms step 8: local optimum: the entropy has fallen (0.01 nats per token, 0.6 at the start)" in joined
    assert "lower optimizer.lr, or raise loss.kl_coef, loss.entropy_coef" in joined
    other = make(tmp_path / "other", collapse=99)
    assert "run, step 8: local optimum: " in re.sub(r"\s+", " ", text_of(run, other))
    (run / "config.yaml").write_text("log: {alarms: false}\n")
    assert "Alarms" not in text_of(run)


def test_a_healthy_run_has_none(tmp_path: Path) -> None:
    series = read_series([make(tmp_path / "run", collapse=99)], {})
    assert marks(draw_figure(series)) == {}
    assert draw_pictures(series).told == ()
    assert "Alarms" not in plot_page(series, draw_pictures(series))


def test_a_damaged_configuration_leaves_the_marks(tmp_path: Path) -> None:
    run = make(tmp_path / "run", "a: [1,", entropy=0.01)
    assert marks(draw_figure(read_series([run], {}))) == {"Entropy": [8.0]}


@pytest.mark.parametrize("alarm", ALARMS, ids=lambda alarm: alarm.name)
def test_every_alarm_has_a_panel(alarm: Alarm, tmp_path: Path) -> None:
    """Of a run that records all that there is."""
    run = make(tmp_path / "run")
    series = read_series([run], {})
    told = told_of(series)[0]
    of_alarm = replace(told, raised=replace(told.raised, metric=alarm.metric))
    assert any(in_panel([of_alarm], panel) for panel in panels_of(series)[0])
