"""Curves and final figures of runs and groups, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from plots.made_runs import write_run

from aspo_megatron.errors import UserError
from aspo_megatron.metrics.record import Recorder
from aspo_megatron.plots.figures import config_differences, deviation, final_figures, number
from aspo_megatron.plots.panels import panels_of
from aspo_megatron.plots.series import curve, final, moving_mean, read_series

NAN = float("nan")


def test_curve_of_a_group_has_the_steps_that_all_runs_have(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / "1", "kl_ref", {1: 1.0, 2: 2.0, 3: NAN, 4: 4.0, 5: 9.0}),
        write_run(tmp_path / "2", "kl_ref", {1: 3.0, 2: 2.0, 3: 3.0, 4: 0.0}),
        write_run(tmp_path / "3", "entropy", {1: 1.0}),  # does not record it
    ]
    (group,) = read_series([], {"g": runs})
    found = curve(group, "kl_ref", smooth=1)
    assert found.steps.tolist() == [1, 2, 4]
    assert found.mean.tolist() == [2, 2, 2]
    assert found.low.tolist() == [1, 2, 0]
    assert found.high.tolist() == [3, 2, 4]
    assert group.last_steps == [5, 4, 1]
    assert len(curve(group, "unknown", smooth=None)) == 0


def test_bands_are_of_smoothed_runs(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"{sign}", "e", {step: sign * step for step in range(1, 6)}) for sign in (-1, 1)]
    found = curve(read_series([], {"g": runs})[0], "e", smooth=3)
    assert found.high.tolist() == [1.5, 2, 3, 4, 4.5]
    assert found.low.tolist() == [-1.5, -2, -3, -4, -4.5]
    assert found.raw.tolist() == found.mean.tolist() == [0.0] * 5


@pytest.mark.parametrize(("steps", "window"), [(59, 1), (60, 4), (300, 20)])
def test_smoothing_begins_with_many_steps(tmp_path: Path, steps: int, window: int) -> None:
    run = write_run(tmp_path / "run", "e", dict.fromkeys(range(steps), 1.0))
    assert curve(read_series([run], {})[0], "e", smooth=None).window == window


def test_moving_mean() -> None:
    values = np.array([1.0, 2.0, 6.0, 0.0])
    assert moving_mean(values, 1).tolist() == [1, 2, 6, 0]
    assert moving_mean(values, 2).tolist() == [1, 1.5, 4, 3]
    assert moving_mean(values, 3).tolist() == [1.5, 3, pytest.approx(8 / 3), 3]
    assert moving_mean(values, 99).tolist() == [2.25] * 4


def test_final_is_the_mean_of_the_last_tenth(tmp_path: Path) -> None:
    one = write_run(tmp_path / "1", "e", {step: float(step) for step in range(1, 21)})
    two = write_run(tmp_path / "2", "e", {step: float(step + 4) for step in range(1, 21)})
    single, group = read_series([one], {"g": [one, two]})
    assert (end := final(single, "e")) is not None
    assert (end.value, end.spread) == (19.5, None)
    assert (end := final(group, "e")) is not None
    assert end.value == 21.5
    assert end.spread == pytest.approx(np.sqrt(8))
    assert (end := final(group, "e", last_only=True)) is not None
    assert end.value == 22.0
    assert final(group, "f") is None


def test_groups_that_cannot_be(tmp_path: Path) -> None:
    run = write_run(tmp_path / "aspo", "e", {1: 1.0})
    with pytest.raises(UserError, match="group g: it has no runs"):
        read_series([], {"g": []})
    with pytest.raises(UserError, match="group aspo: a run has this name already"):
        read_series([run], {"aspo": [run]})
    with pytest.raises(UserError, match="group g: a run is named twice"):
        read_series([], {"g": [run, run / "metrics.jsonl"]})


def test_heldout_accuracy_by_benchmark(tmp_path: Path) -> None:
    for name, values in (("a", {"eval/avg@4": 0.5, "eval/avg@16": 0.25, "eval/pass@4": 1.0}), ("b", {"eval/avg@8": 1})):
        with Recorder(tmp_path / name, tensorboard=False) as recorder:
            recorder.log(0, values)
    with Recorder(tmp_path / "c", tensorboard=False) as recorder:
        recorder.log(0, {"eval/aime24/avg@64": 0.3, "eval/amc23/avg@64": 0.6})
    panel = panels_of(read_series([tmp_path / name for name in "abc"], {}))[0][0]
    assert [(line.label, line.metrics) for line in panel.lines] == [
        ("avg@8/16", ("eval/avg@16", "eval/avg@8", None)),
        ("aime24 avg@64", (None, None, "eval/aime24/avg@64")),
        ("amc23 avg@64", (None, None, "eval/amc23/avg@64")),
    ]


def test_final_figures(tmp_path: Path) -> None:
    for name, value in (("s1", 0.5), ("s2", 0.7)):
        with Recorder(tmp_path / name, tensorboard=False) as recorder:
            recorder.log(0, {"eval/avg@4": 0.1})
            recorder.log(8, {"eval/avg@4": value, "entropy": value})
    run = write_run(tmp_path / "run", "entropy", {3: 0.01234})
    table = final_figures(read_series([run], {"aspo": [tmp_path / "s1", tmp_path / "s2"]}))
    assert table.columns == ("run", "aspo")
    assert table.best == ((), (), ())
    assert table.rows == (
        ("steps", ("3", "8")),
        ("Held-out accuracy: avg@4", ("-", "60.0% ± 14%")),
        ("Entropy", ("0.01234", "0.6000 ± 0.14")),
    )


def test_numbers() -> None:
    assert [number(value) for value in (0.0, 1.0, -0.5, 1472.3, 123456.0, 2.4224e-7, 0.002466)] == [
        "0", "1.000", "-0.5000", "1472", "1.235e+05", "2.422e-07", "0.002466",
    ]  # fmt: skip
    assert [number(value, percent=True) for value in (0.0, 1.0, 0.5642, 0.00123, 1e-6)] == [
        "0%", "100.0%", "56.4%", "0.12%", "0.0001%",
    ]  # fmt: skip
    assert (deviation(0.0123), deviation(0.0123, percent=True)) == ("0.012", "1.2%")


def test_settings_that_differ(tmp_path: Path) -> None:
    configs = {
        "s1": "output_dir: a\nseed: 1\nloss: {name: aspo, kl_coef: 0.001}\neval: {sampling: null}\n",
        "s2": "output_dir: b\nseed: 2\nloss: {name: aspo, kl_coef: 0.001}\neval: {sampling: null}\n",
        "grpo": "output_dir: c\nseed: 1\nloss: {name: grpo, kl_coef: 0.001}\neval: {sampling: {top_p: 0.9}}\n",
    }
    for name, text in configs.items():
        write_run(tmp_path / name, "entropy", {1: 1.0})
        (tmp_path / name / "config.yaml").write_text(text)
    bare = write_run(tmp_path / "bare", "entropy", {1: 1.0})
    series = read_series([tmp_path / "grpo", bare], {"aspo": [tmp_path / "s1", tmp_path / "s2"]})
    assert config_differences(series).rows == (
        ("seed", ("1", "-", "1, 2")),
        ("loss.name", ("grpo", "-", "aspo")),
    )
    (bare / "config.yaml").write_text("a: [1,")
    with pytest.raises(UserError, match=r"bare/config\.yaml: cannot be read as YAML"):
        config_differences(series)
    (bare / "config.yaml").write_text("just text")
    with pytest.raises(UserError, match=r"bare/config\.yaml: not a run's configuration"):
        config_differences(series)
