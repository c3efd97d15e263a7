"""The figure of runs: its file, its panels and their words."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from plots.made_runs import make_run, write_run

from aspo_megatron.errors import UserError
from aspo_megatron.metrics.record import Recorder
from aspo_megatron.plots.curves import draw_curves, draw_figure, write_figure
from aspo_megatron.plots.series import read_series


def texts(svg: Path) -> str:
    """The words in an SVG picture: matplotlib leaves each text as a comment."""
    return " ".join(line.strip(" <!->") for line in svg.read_text().splitlines() if line.strip().startswith("<!--"))


def test_png_of_one_run(tmp_path: Path) -> None:
    draw_curves([make_run(tmp_path / "run")], tmp_path / "pictures" / "curves.png")
    picture = matplotlib.image.imread(tmp_path / "pictures" / "curves.png")
    assert picture.shape[1] == 1575
    assert picture[..., :3].std() > 0.05


def test_panels_have_titles_units_and_keys(tmp_path: Path) -> None:
    draw_curves([make_run(tmp_path / "quick")], tmp_path / "curves.svg")
    words = texts(tmp_path / "curves.svg")
    for expected in ("quick", "Held-out accuracy", "avg@8", "mean reward", "Entropy", "nats per token", "tokens",
                     "Repetition rate", "repeated 4-grams", "Weight capped (dual clip)", "Gradient norm", "step",
                     "Out of the clip range, A > 0".replace(">", "&gt;"), "r above the range", "r below the range",
                     "A &lt; 0, mean over responses",
                     "KL to the starting model", "L2 norm before clipping"):  # fmt: skip
        assert expected in words
    assert "avg@1 " not in words  # the largest K alone
    assert "not recorded" not in words
    assert "moving mean" not in words
    assert "trainer against engine" not in words


def test_several_runs_are_named_and_long_ones_smoothed(tmp_path: Path) -> None:
    long, brief = ({step: float(step) for step in range(count)} for count in (80, 12))
    runs = [
        write_run(tmp_path / "a" / "run", "entropy", long),
        write_run(tmp_path / "b" / "run", "entropy", brief),
        write_run(tmp_path / "c", "grad_norm", brief),
    ]
    draw_curves([runs[0], runs[1] / "metrics.jsonl", runs[2]], tmp_path / "curves.svg")
    words = texts(tmp_path / "curves.svg")
    assert "a/run" in words
    assert "b/run" in words
    assert "thick: moving mean over up to 5 points" in words


def test_groups_are_drawn_as_a_mean_in_a_band(tmp_path: Path) -> None:
    members = [write_run(tmp_path / f"{value}", "entropy", {1: value, 2: value + 1}) for value in (1.0, 3.0)]
    series = read_series([], {"seeds": members})
    figure = draw_figure(series)
    panel = next(axes for axes in figure.axes if axes.get_title() == "Entropy")
    assert np.asarray(panel.lines[0].get_ydata()).tolist() == [2.0, 3.0]
    band = np.asarray(panel.collections[0].get_paths()[0].vertices)
    assert (band[:, 1].min(), band[:, 1].max()) == (1.0, 4.0)
    write_figure(figure, tmp_path / "curves.svg")
    assert "from the lowest to the highest run" in texts(tmp_path / "curves.svg")


def test_missing_metrics_are_said_and_have_no_panel(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", names=("reward/mean", "clip/pos_high", "grad_norm"))
    with Recorder(run, tensorboard=False) as recorder:
        recorder.log(13, {"kl_ref": float("nan")})  # never a finite value
    draw_curves([run], tmp_path / "curves.svg")
    words = texts(tmp_path / "curves.svg")
    assert "not recorded: Response length, Entropy, KL to the starting model, Repetition rate" in words
    assert "r above the range" in words
    assert words.count("Entropy") == 1


def test_names_with_signs_of_mathematics_are_text(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / name, "entropy", {1: 1.0}) for name in ("_hidden", "a$b^$", r"c\frac{")]
    draw_curves(runs, tmp_path / "curves.svg")
    assert all(name in texts(tmp_path / "curves.svg") for name in ("_hidden", "a$b^$", r"c\frac{"))
    draw_curves(runs[1:2], tmp_path / "one.svg")
    assert "a$b^$" in texts(tmp_path / "one.svg")


def test_more_series_than_colours_differ_by_markers(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"r{number}", "entropy", {1: 1.0, 2: 2.0}) for number in range(9)]
    lines = draw_figure(read_series(runs, {})).axes[0].lines
    assert len({line.get_color() for line in lines}) == 9
    assert len({line.get_color() for line in lines if line.get_marker() == "o"}) == 2


def test_difference_to_the_engine_is_on_a_log_scale(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", 3, names=("engine_log_prob_diff/mean", "engine_log_prob_diff/max"))
    panels = {axes.get_title(): axes for axes in draw_figure(read_series([run], {})).axes}
    assert panels["Log-probs: trainer against engine"].get_yscale() == "log"


@pytest.mark.parametrize("values", [[1e-320, 1e100], [-1e100, 1e100], [1e-320, 1.0], [1.0, 1e101], [1.0, 1.7e308]])
@pytest.mark.parametrize("key", ["engine_log_prob_diff/mean", "entropy", "ratio/pos"])
def test_numbers_at_the_ends_of_what_there_is_are_drawn(tmp_path: Path, values: list[float], key: str) -> None:
    (tmp_path / "run").mkdir()
    lines = [json.dumps({"step": step, key: value}) for step, value in enumerate(values, start=1)]
    (tmp_path / "run" / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    write_figure(draw_figure(read_series([tmp_path / "run"], {})), tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 1000


def test_unfinished_last_line_is_left_out(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "entropy", {1: 1.0, 2: 2.0})
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "entr')
    assert np.asarray(draw_figure(read_series([run], {})).axes[0].lines[0].get_xdata()).tolist() == [1.0, 2.0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_run_of_a_single_step(tmp_path: Path, value: float) -> None:
    with Recorder(tmp_path / "run", tensorboard=False) as recorder:
        recorder.log(1, dict.fromkeys(("entropy", "clip/dual", "ratio/pos", "engine_log_prob_diff/mean"), value))
    figure = draw_figure(read_series([tmp_path / "run"], {}))
    write_figure(figure, tmp_path / "curves.png")
    assert all(np.isfinite(axes.get_ylim()).all() for axes in figure.axes)


def test_nothing_to_draw_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run given"):
        draw_curves([], tmp_path / "curves.png")
    with pytest.raises(UserError, match=r"nowhere/metrics\.jsonl: no such file; is this a run folder\?"):
        draw_curves([tmp_path / "nowhere"], tmp_path / "curves.png")
    with Recorder(tmp_path / "new", tensorboard=False):
        pass
    with pytest.raises(UserError, match="no step is recorded yet"):
        draw_curves([tmp_path / "new"], tmp_path / "curves.png")
    with pytest.raises(UserError, match="none of the quantities"):
        draw_curves([write_run(tmp_path / "other", "mine", {1: 1.0})], tmp_path / "curves.png")


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", "entropy", {1: 1.0})
    with pytest.raises(UserError, match=r"curves\.docx: Format 'docx' is not supported"):
        draw_curves([run], tmp_path / "curves.docx")
    with pytest.raises(UserError, match=r"metrics\.jsonl.*: cannot be written"):
        draw_curves([run], run / "metrics.jsonl" / "curves.png")
