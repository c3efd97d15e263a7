"""The files of a run."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aspo_megatron.errors import UserError
from aspo_megatron.metrics.record import Recorder, read_metrics


def strict_json(line: str) -> dict[str, Any]:
    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    return json.loads(line, parse_constant=refuse)


def test_each_step_is_a_line_at_once(tmp_path: Path) -> None:
    with Recorder(tmp_path / "run", tensorboard=False) as recorder:
        recorder.log(1, {"reward/mean": 0.5, "entropy": np.float32(0.25)})  # type: ignore[dict-item]
        assert (tmp_path / "run/metrics.jsonl").read_text() == '{"step": 1, "reward/mean": 0.5, "entropy": 0.25}\n'
        recorder.log(2, {"reward/mean": 1})
    assert read_metrics(tmp_path / "run/metrics.jsonl") == [
        {"step": 1.0, "reward/mean": 0.5, "entropy": 0.25},
        {"step": 2.0, "reward/mean": 1.0},
    ]


def test_numbers_that_json_lacks_stay_readable(tmp_path: Path) -> None:
    with Recorder(tmp_path, tensorboard=False) as recorder:
        recorder.log(1, {"a": math.nan, "b": math.inf, "c": -math.inf})
    line = strict_json((tmp_path / "metrics.jsonl").read_text())
    assert line == {"step": 1, "a": "NaN", "b": "Infinity", "c": "-Infinity"}
    (values,) = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(values["a"])
    assert (values["b"], values["c"]) == (math.inf, -math.inf)


def test_samples(tmp_path: Path) -> None:
    with Recorder(tmp_path, tensorboard=False) as recorder:
        assert not (tmp_path / "samples.jsonl").exists()
        recorder.log_samples(
            3, [{"text": "é\n", "reward": np.float32(1), "ids": np.array([1, 2])}, {"extra": {"x": (math.nan, None)}}]
        )
        lines = (tmp_path / "samples.jsonl").read_text().splitlines()
    assert strict_json(lines[0]) == {"step": 3, "text": "é\n", "reward": 1.0, "ids": [1, 2]}
    assert strict_json(lines[1]) == {"step": 3, "extra": {"x": ["NaN", None]}}


def test_continued_run_drops_the_unfinished_line_and_wins_over_steps_done_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1}\n{"step": 2, "a": 2}\n{"step": 3, "a"')
    assert [values["a"] for values in read_metrics(path)] == [1, 2]
    with Recorder(tmp_path, tensorboard=False) as recorder:
        recorder.log(2, {"a": 20})
        recorder.log(3, {"a": 30})
    assert [values["a"] for values in read_metrics(path)] == [1, 20, 30]
    assert len(path.read_text().splitlines()) == 4


@pytest.mark.parametrize("line", ["{broken", "[1]", '{"a": 1}', '{"step": 1, "a": "x"}', '{"step": 1, "a": null}'])
def test_damaged_line_is_left_out_and_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"step": 0}}\n{line}\n{{"step": 2}}\n')
    told: list[str] = []
    assert read_metrics(path, told.append) == [{"step": 0}, {"step": 2}]
    assert told == [f"warning: {path}, line 2: damaged, not the metrics of a step; left out"]
    path.write_text(f"{line}\n")
    with pytest.raises(UserError, match=r"metrics\.jsonl, line 1: not a line of metrics"):
        read_metrics(path)


@pytest.mark.parametrize("kind", ["metrics", "samples"])
def test_a_disk_that_stays_full_is_a_user_error_in_the_end(tmp_path: Path, kind: str) -> None:
    (tmp_path / f"{kind}.jsonl").symlink_to("/dev/full")

    def record() -> None:
        with Recorder(tmp_path, tensorboard=False) as recorder:
            recorder.log(1, {"a": 1.0})
            recorder.log_samples(1, [{"a": "x"}])

    with pytest.raises(UserError, match=rf"{kind}\.jsonl: cannot be written: No space left on device"):
        record()


def test_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="run: cannot be written: Not a directory"):
        Recorder(tmp_path / "file" / "run", tensorboard=False)


def test_step_is_no_metric(tmp_path: Path) -> None:
    with Recorder(tmp_path, tensorboard=False) as recorder, pytest.raises(ValueError, match="step"):
        recorder.log(1, {"step": 2.0})


def test_tensorboard_gets_the_same_numbers(tmp_path: Path) -> None:
    with Recorder(tmp_path, tensorboard=True) as recorder:
        recorder.log(1, {"reward/mean": 0.5})
        recorder.log(2, {"reward/mean": 0.75, "entropy": math.nan})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward/mean")] == [(1, 0.5), (2, 0.75)]
    assert math.isnan(events.Scalars("entropy")[0].value)


def test_missing_tensorboard_is_a_user_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.record_writer", None)  # the import fails
    with pytest.raises(UserError, match=r"log\.tensorboard is true.*install it, or set log\.tensorboard=false"):
        Recorder(tmp_path, tensorboard=True)
