"""The curves of runs."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from aspo_megatron.errors import UserError
from aspo_megatron.metrics.plots import draw_curves
from aspo_megatron.metrics.record import Recorder

ALL = ("reward/mean", "entropy", "clip/pos_high", "clip/neg_low", "clip/dual", "response_tokens/mean", "kl_ref",
       "grad_norm")  # fmt: skip


def make_run(folder: Path, steps: int = 12, names: tuple[str, ...] = ALL) -> Path:
    random = np.random.default_rng(0)
    with Recorder(folder, tensorboard=False) as recorder:
        recorder.log(0, {"eval/avg@1": 0.4, "eval/avg@8": 0.5})
        for step in range(1, steps + 1):
            recorder.log(step, {name: random.uniform() for name in names})
    return folder


def texts(svg: Path) -> str:
    """The words in an SVG picture: matplotlib leaves each text as a comment."""
    return " ".join(line.strip(" <!->") for line in svg.read_text().splitlines() if line.strip().startswith("<!--"))


def test_png_of_one_run(tmp_path: Path) -> None:
    draw_curves([make_run(tmp_path / "run")], tmp_path / "pictures" / "curves.png")
    picture = matplotlib.image.imread(tmp_path / "pictures" / "curves.png")
    assert picture.shape[:2] == (960, 1800)
    assert picture[..., :3].std() > 0.05


def test_panels_have_titles_units_and_legends(tmp_path: Path) -> None:
    draw_curves([make_run(tmp_path / "quick")], tmp_path / "curves.svg")
    words = texts(tmp_path / "curves.svg")
    for expected in ("quick", "held-out avg@8", "reward (training)", "nats per token", "share of tokens", "tokens",
                     "weight capped (dual clip)", "Gradient norm", "step"):  # fmt: skip
        assert expected in words
    assert "not recorded" not in words
    assert "moving mean" not in words


def test_several_runs_are_named_and_long_ones_smoothed(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a" / "run", 80), make_run(tmp_path / "b" / "run"), make_run(tmp_path / "c")]
    draw_curves([runs[0], runs[1] / "metrics.jsonl", runs[2]], tmp_path / "curves.svg")
    words = texts(tmp_path / "curves.svg")
    assert "a/run" in words
    assert "b/run" in words
    assert "moving mean" in words


def test_missing_metrics_are_said(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", names=("reward/mean", "clip/pos_high", "grad_norm"))
    with Recorder(run, tensorboard=False) as recorder:
        recorder.log(13, {"kl_ref": float("nan")})  # never a finite value
    draw_curves([run], tmp_path / "curves.svg")
    words = texts(tmp_path / "curves.svg")
    assert words.count("not recorded") == 3  # entropy, response length, KL
    assert "r too high" in words
    assert "dual clip" not in words


def test_unfinished_last_line_is_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "rewa')
    draw_curves([run], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_run_of_a_single_step_and_of_zeros(tmp_path: Path) -> None:
    with Recorder(tmp_path / "run", tensorboard=False) as recorder:
        recorder.log(1, dict.fromkeys(ALL, 0.0))
    draw_curves([tmp_path / "run"], tmp_path / "curves.svg")
    assert "not recorded" not in texts(tmp_path / "curves.svg")


def test_nothing_to_draw_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run given"):
        draw_curves([], tmp_path / "curves.png")
    with pytest.raises(UserError, match=r"nowhere/metrics\.jsonl: no such file; is this a run folder\?"):
        draw_curves([tmp_path / "nowhere"], tmp_path / "curves.png")
    with Recorder(tmp_path / "new", tensorboard=False):
        pass
    with pytest.raises(UserError, match="no step is recorded yet"):
        draw_curves([tmp_path / "new"], tmp_path / "curves.png")


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(UserError, match=r"curves\.docx: Format 'docx' is not supported"):
        draw_curves([run], tmp_path / "curves.docx")
    with pytest.raises(UserError, match=r"metrics\.jsonl.*: cannot be written"):
        draw_curves([run], run / "metrics.jsonl" / "curves.png")
