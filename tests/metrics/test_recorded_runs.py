"""The alarms of runs that were made: the comparison of examples/aspo_vs_grpo, and runs made to collapse.

recorded_runs.json.gz has what the alarms look at of the runs' metrics.jsonl, to four digits; tools/record_runs.py
writes it. `collapse/` are those of collapse.py. `sudden/` are models of the comparison that were ruined with twelve
updates a step, where a letter that is lost between two evaluations costs 11 to 24 points.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from aspo_megatron.metrics.alarms import Raised, alarms_of

Records = list[dict[str, float]]
RUNS: dict[str, Records] = json.loads(gzip.decompress((Path(__file__).parent / "recorded_runs.json.gz").read_bytes()))
COLLAPSES = [name for name in RUNS if name.startswith("collapse/")]
SUDDEN = [name for name in RUNS if name.startswith("sudden/")]
COMPARED = [name for name in RUNS if "/" not in name]
STEADY = ("aspo", "aspo-without-dual-clip", "grpo", "dapo", "grpo-response-mean")


def first_collapse(name: str) -> Raised | None:
    return next((one for one in alarms_of(RUNS[name]) if one.collapse), None)


def lost(records: Sequence[dict[str, float]]) -> dict[int, float]:
    """By step: how far the held-out accuracy is below the best before."""
    best, found = 0.0, {}
    for record in records:
        if "eval/avg@4" in record:
            best = max(best, record["eval/avg@4"])
            found[int(record["step"])] = best - record["eval/avg@4"]
    return found


def fallen(records: Sequence[dict[str, float]]) -> int:
    """The first step with a held-out accuracy ten points below the best before."""
    return next(step for step, points in lost(records).items() if points >= 0.1)


def test_all_runs_are_here() -> None:
    assert (len(COMPARED), len(COLLAPSES), len(SUDDEN)) == (84, 12, 12)


def test_of_60_runs_with_losses_that_clip_none_raises_an_alarm() -> None:
    runs = [name for name in COMPARED if name.rpartition("-")[0] in STEADY]
    assert len(runs) == 60
    assert [name for name in runs if first_collapse(name)] == []


def test_eight_of_the_84_runs_raise_one_when_seven_points_or_more_are_lost() -> None:
    raised = {name: one for name in COMPARED if (one := first_collapse(name))}
    assert sorted(raised) == [
        "cispo-12",
        "cispo-16",
        "grpo-without-is-12",
        "grpo-without-is-13",
        "grpo-without-is-15",
        "grpo-without-is-16",
        "grpo-without-is-19",
        "grpo-without-is-20",
    ]
    told = [lost(RUNS[name])[one.step] for name, one in raised.items()]
    assert min(told) == pytest.approx(0.071, abs=0.001)
    later = [name for name, one in raised.items() if 0.0 in [lost(RUNS[name])[s] for s in range(one.step + 4, 33, 4)]]
    assert len(later) == 7  # they recovered, and set a new best


@pytest.mark.parametrize("name", COLLAPSES)
def test_a_collapse_is_told_before_ten_points_are_lost(name: str) -> None:
    raised = first_collapse(name)
    assert raised is not None
    assert raised.step < fallen(RUNS[name])
    assert lost(RUNS[name])[raised.step] < 0.05


@pytest.mark.parametrize("name", SUDDEN)
def test_a_sudden_one_is_told_in_the_step_of_the_fall_at_the_latest(name: str) -> None:
    raised = first_collapse(name)
    assert raised is not None
    assert raised.step <= fallen(RUNS[name])


def test_six_of_the_sudden_ones_are_told_before() -> None:
    raised = {name: first_collapse(name) for name in SUDDEN}
    assert sum(one is not None and one.step < fallen(RUNS[name]) for name, one in raised.items()) == 6


@pytest.mark.parametrize("seed", range(11, 15))
def test_a_reward_that_does_not_fall_with_the_accuracy_is_said_to_be_gamed(seed: int) -> None:
    """The best evaluation is the one before training here, which no reward belongs to."""
    raised = first_collapse(f"collapse/reward-turned-{seed}")
    assert raised is not None
    assert "in step 0) while the reward of training has not: the policy games the reward" in raised.what
    assert raised.cure.endswith("nothing since the starting model is better")
