"""`python -m benchmarks.gpu`: the sections that measure, by the check's frame and without its limit of time."""

from __future__ import annotations

import json
import math
import signal
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpu_check import __main__ as check
from benchmarks.gpu_check.lines import Line, Status
from benchmarks.gpu_check.machine import Machine
from benchmarks.gpu_check.runner import Outcome, Plan
from benchmarks.gpu_check.sections import SECTIONS

NAMES = ["log_prob", "ceilings", "attention_time", "update_time", "step_time"]


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[Plan]:
    """What would be run: each section gives a line."""
    found: list[Plan] = []

    def run_sections(plan: Plan, show: Any, keep: Any) -> Outcome:
        found.append(plan)
        status = Status.ON_CPU if plan.cpu else Status.PASSED
        lines = [Line(one.name, "a line", status, None, "", "", "", "", 0.0) for one in plan.sections]
        return Outcome(lines, [])

    monkeypatch.setattr(check, "run_sections", run_sections)
    monkeypatch.setattr(check, "_end_by_signals", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(check, "ask_machine", lambda env: Machine({}, []))
    return found


def test_sections_are_those_that_measure() -> None:
    assert [section.name for section in gpu.TIMED] == NAMES
    within = {section.name: section for section in SECTIONS}
    for section in gpu.TIMED:
        assert section.seconds > 2 * within[section.name].seconds
        assert (section.module, section.gpus) == (within[section.name].module, 1)


def test_without_a_gpu(plans: list[Plan], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main(["--out", str(tmp_path / "out")]) == check.NO_GPU
    (plan,) = plans
    assert plan.sections == gpu.TIMED
    assert (plan.cpu, plan.gpus, plan.budget) == (True, 0, math.inf)
    assert "No GPU was found: nothing was shown about one." in capsys.readouterr().out
    report = json.loads((tmp_path / "out" / "gpu_check.json").read_text())
    assert report["small"]
    assert [line["section"] for line in report["lines"]] == NAMES


def test_on_a_gpu(plans: list[Plan], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "ask_machine", lambda env: Machine({}, ["a card"]))
    assert gpu.main(["--out", str(tmp_path), "--only", "step_time,ceilings"]) == check.ALL_SHOWN
    assert gpu.main(["--out", str(tmp_path), "--only", "ceilings", "--cpu"]) == check.ALL_SHOWN
    assert [[section.name for section in plan.sections] for plan in plans] == [["ceilings", "step_time"], ["ceilings"]]
    assert [(plan.cpu, plan.gpus) for plan in plans] == [(False, 1), (True, 0)]


def test_help_names_each_section(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu.main(["--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: python -m benchmarks.gpu ")
    for name in [*NAMES, "--only", "--out", "--cpu", "exit codes", "runs/gpu"]:
        assert name in said


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--only", "attention"], f"no section attention; there are {', '.join(NAMES)}"),
        (["--only", ","], "no section named"),
        (["--budget", "5"], "unrecognized arguments: --budget 5"),
    ],
)
def test_bad_arguments_are_one_line(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        gpu.main(argv)
    assert ended.value.code == check.BAD_ARGUMENTS
    output = capsys.readouterr()
    assert said in output.err
    assert (output.err.count("\n"), output.out) == (1, "")
