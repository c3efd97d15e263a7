"""The section `train` holds on the CPU, and finds runs that fail, leave processes, or log what they should not."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from aspo_megatron.data.samples import Problem
from benchmarks.gpu_check import train, train_reward
from benchmarks.gpu_check.lines import Line, Sheet, Status, read_lines

from .in_process import cpu, failed, held, not_done

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(300)]

LINES = {
    "processes left after SIGKILL of the launcher",
    "the killed run goes on to its end",
    "processes left after its end",
    "metrics from before the kill are kept",
    "each step is there once",
    "metrics that are not finite",
    "largest engine_log_prob_diff/above_0.1 of a step",
    "largest gradient norm",
}


def lines_in(path: Path) -> dict[str, Line]:
    return {line.name: line for line in read_lines(path)}


@pytest.mark.thorough
def test_on_the_cpu(tmp_path: Path) -> None:
    train.run(Sheet("train", tmp_path / "lines", on_gpu=False), cpu(tmp_path))
    lines = lines_in(tmp_path / "lines")
    assert failed(lines) == set(), [lines[name].note for name in failed(lines)]
    assert held(lines) == LINES
    assert not_done(lines) == {"GPU memory that the killed run keeps"}


def test_a_run_that_does_not_begin_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "_settings", lambda place: ("rollout.no_such_key=1",))
    train.run(Sheet("train", tmp_path / "lines", on_gpu=False), cpu(tmp_path))
    lines = lines_in(tmp_path / "lines")
    assert set(lines) == {"a run begins and saves its state"}
    assert "exit code 2" in lines["a run begins and saves its state"].note
    assert "no_such_key" in lines["a run begins and saves its state"].note


def test_a_process_that_stays_is_found_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "_SECONDS_TO_DIE", 0.3)
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        while not psutil.Process(process.pid).cmdline():
            time.sleep(0.01)
        train._all_gone(Sheet("train", tmp_path / "lines", on_gpu=False), "left", [psutil.Process(process.pid)])
        assert process.wait() == -9
    (line,) = lines_in(tmp_path / "lines").values()
    assert line.status is Status.FAILED
    assert "time.sleep(60)" in line.note


def test_what_is_logged_is_looked_at(tmp_path: Path) -> None:
    good = {
        "step": 1,
        "reward/mean": 0.5,
        "grad_norm": 0.1,
        "engine_log_prob_diff/mean": 0.01,
        "engine_log_prob_diff/above_0.1": 0.0,
    }
    far = {**good, "engine_log_prob_diff/above_0.1": 0.2}
    strange, flat = {**good, "loss": "NaN"}, {**good, "grad_norm": 0.0}
    wrong = []
    runs: list[list[dict[str, Any]]] = [[good, good], [good, far], [good, strange], [flat, flat]]
    for number, rows in enumerate(runs):
        train.figures(Sheet("train", tmp_path / str(number), on_gpu=False), rows)
        wrong.append(failed(lines_in(tmp_path / str(number))))
    assert wrong == [
        set(),
        {"largest engine_log_prob_diff/above_0.1 of a step"},
        {"metrics that are not finite"},
        {"largest gradient norm"},
    ]


@pytest.mark.parametrize(("said", "value"), [("cba", 1.0), ("cb", 2 / 3), ("cbaa", 0.75), ("abc", 1 / 3), ("", 0.0)])
def test_reward(said: str, value: float) -> None:
    assert train_reward.score(Problem("1", "abc", (1,), "cba"), said) == pytest.approx(value)
