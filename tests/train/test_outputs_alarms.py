"""What a run says of its own metrics while it goes, and that a resumed one goes on with what it has recorded."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from aspo_megatron.config.io import load_config
from aspo_megatron.evaluation.evaluator import Evaluation
from aspo_megatron.evaluation.scores import Scores, mean_estimate
from aspo_megatron.metrics.progress import SilentProgress
from aspo_megatron.metrics.record import Recorder
from aspo_megatron.train.outputs import RunOutputs

STEP = {"reward/mean": 0.4, "groups/all_agree": 0.2, "entropy": 0.6, "grad_norm": 0.5, "tokens_per_second": 1.0}
LOW = STEP | {"entropy": 0.1}


class Shown(SilentProgress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def message(self, text: str) -> None:
        self.said.append(text)


def go(folder: Path, steps: Sequence[dict[str, float]], after: int | None, *settings: str) -> list[str]:
    """Record the steps after one, as a process does; the warnings."""
    given = [f"output_dir={folder}", "model.path=m", "data.train={kind: jsonl, path: p}", *settings]
    shown, inputs = Shown(), Any
    with ExitStack() as stack:
        outputs = RunOutputs(
            load_config(None, given),
            inputs,  # type: ignore[arg-type]
            lambda step: stack.enter_context(Recorder(folder, tensorboard=False, after_step=step)),
            shown,
        )
        outputs.begin(after)
        for step, figures in enumerate(steps, start=(after or 0) + 1):
            outputs.record_step(step, figures, None)
    return [line for line in shown.said if line.startswith("warning: ")]


def test_a_resumed_run_has_the_start_of_its_first_step(tmp_path: Path) -> None:
    assert go(tmp_path, [STEP] * 6 + [LOW] * 2, None) == []
    # Two steps are done again: what was recorded of them is gone, and what was before is not.
    (line,) = go(tmp_path, [LOW] * 3, 6)
    assert line.startswith("warning: steps 7 to 9: the entropy has fallen (0.1 nats per token, 0.6 at the start)")
    (line,) = go(tmp_path, [LOW] * 3, 9)
    assert line.startswith("warning: steps 7 to 12: the entropy has fallen (0.1 nats per token, 0.6 at the start)")


def test_a_new_run_in_the_same_place_begins_anew(tmp_path: Path) -> None:
    assert go(tmp_path, [STEP] * 6, None) == []
    assert go(tmp_path, [LOW] * 9, -1) == []


@pytest.mark.parametrize("setting", ["log.alarms=false", "log.alarms=true"])
def test_one_setting_turns_them_off(tmp_path: Path, setting: str) -> None:
    lines = go(tmp_path, [STEP | {"groups/all_agree": 1.0, "approx_kl": 30.0}] * 3, None, setting)
    assert len(lines) == (0 if "false" in setting else 3)  # large updates after one step and two, equal rewards


def test_the_evaluation_before_the_first_step_counts(tmp_path: Path) -> None:
    shown, right = Shown(), 0.6
    given = [f"output_dir={tmp_path}", "model.path=m", "data.train={kind: jsonl, path: p}"]
    with Recorder(tmp_path, tensorboard=False) as recorder:
        outputs = RunOutputs(load_config(None, given), Any, lambda step: recorder, shown)  # type: ignore[arg-type]
        outputs.begin(None)
        scores = Scores(1, (1,) * 300 + (0,) * 200, mean_estimate([1.0] * 300 + [0.0] * 200), {})
        outputs.record_evaluation(0, Evaluation(scores, []), own_line=True)
        outputs.record_step(1, STEP | {"eval/avg@1": right - 0.3, "eval/problems": 500.0}, None)
    (line,) = [line for line in shown.said if line.startswith("warning: ")]
    assert line.startswith("warning: step 1: held-out accuracy has fallen to 30.0% (best: 60.0% in step 0)")
