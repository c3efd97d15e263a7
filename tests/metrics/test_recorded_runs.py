"""The alarms of runs that were made: the comparison of examples/aspo_vs_grpo, and runs made to collapse.

recorded_runs.json.gz has what the alarms look at of the runs' metrics.jsonl, to four digits; tools/record_runs.py
writes it. Those with seeds below 61 were seen when the thresholds were chosen, the others were made afterwards.
`collapse/` are those of collapse.py. `sudden/` are models of the comparison that were ruined with twelve updates a
step, where a letter that is lost between two evaluations costs 11 to 24 points.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from aspo_megatron.metrics.alarms import Raised, alarms_of

Records = list[dict[str, float]]
RUNS: dict[str, Records] = json.loads(gzip.decompress((Path(__file__).parent / "recorded_runs.json.gz").read_bytes()))
COLLAPSES = [name for name in RUNS if name.startswith("collapse/")]
SUDDEN = [name for name in RUNS if name.startswith("sudden/")]
COMPARED = [name for name in RUNS if "/" not in name]
STEADY = ("aspo", "aspo-without-dual-clip", "grpo", "dapo", "grpo-response-mean")


def first_collapse(records: Records) -> Raised | None:
    return next((one for one in alarms_of(records) if one.collapse), None)


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


def seed_of(name: str) -> int:
    return int(name.rpartition("-")[2])


def raised_of(names: Sequence[str]) -> dict[str, Raised]:
    """The first alarm of a collapse of those of the runs that raised one."""
    return {name: one for name in names if (one := first_collapse(RUNS[name]))}


def lost_by_then(raised: Mapping[str, Raised]) -> dict[str, float]:
    return {name: lost(RUNS[name])[one.step] for name, one in raised.items()}


def test_all_runs_are_here() -> None:
    assert (len(COMPARED), len(COLLAPSES), len(SUDDEN)) == (7 * 32, 36, 12)
    assert {seed_of(name) for name in COMPARED} == {*range(11, 23), *range(41, 51), *range(61, 71)}


@pytest.mark.parametrize(
    ("seeds", "runs", "expected"),
    [
        (range(11, 23), 60, {}),
        (range(41, 51), 50, {"aspo-without-dual-clip-43": 0.094, "grpo-response-mean-47": 0.116}),
        (range(61, 71), 50, {"grpo-70": 0.130}),
    ],
)
def test_of_160_runs_with_losses_that_clip_three_raise_an_alarm(
    seeds: range, runs: int, expected: dict[str, float]
) -> None:
    """Each of the three had lost a letter between two evaluations."""
    names = [name for name in COMPARED if name.rpartition("-")[0] in STEADY and seed_of(name) in seeds]
    assert len(names) == runs
    assert lost_by_then(raised_of(names)) == pytest.approx(expected, abs=0.001)


@pytest.mark.parametrize(
    ("seeds", "runs", "cispo", "grpo_without_is", "least", "recovered"),
    [
        (range(11, 23), 24, [12, 16], [12, 13, 15, 16, 19, 20], 0.071, 7),
        (range(41, 51), 20, [44, 47, 50], [41, 42, 43, 44, 49, 50], 0.078, 4),
        (range(61, 71), 20, [], [66, 70], 0.082, 1),
    ],
)
def test_of_64_runs_with_losses_that_do_not_clip_19_raise_one(
    seeds: range, runs: int, cispo: list[int], grpo_without_is: list[int], least: float, recovered: int
) -> None:
    """`least`: what any had lost by then; `recovered`: how many set a new best later."""
    names = [name for name in COMPARED if name.rpartition("-")[0] not in STEADY and seed_of(name) in seeds]
    assert len(names) == runs
    raised = raised_of(names)
    expected = [f"cispo-{seed}" for seed in cispo] + [f"grpo-without-is-{seed}" for seed in grpo_without_is]
    assert sorted(raised) == expected
    assert min(lost_by_then(raised).values()) == pytest.approx(least, abs=0.001)
    later = [name for name, one in raised.items() if 0.0 in [lost(RUNS[name])[s] for s in range(one.step + 4, 33, 4)]]
    assert len(later) == recovered


@pytest.mark.parametrize("name", COLLAPSES)
def test_a_collapse_is_told_before_ten_points_are_lost(name: str) -> None:
    raised = first_collapse(RUNS[name])
    assert raised is not None
    assert raised.step < fallen(RUNS[name])
    assert lost(RUNS[name])[raised.step] < (0.05 if seed_of(name) < 61 else 0.1)


def test_33_of_36_are_told_before_five_points_are_lost() -> None:
    assert sum(points < 0.05 for points in lost_by_then(raised_of(COLLAPSES)).values()) == 33


@pytest.mark.parametrize(("every", "told", "early"), [(2, 36, 32), (4, 36, 20), (10, 36, 5), (0, 28, 0)])
def test_fewer_evaluations_tell_it_later(every: int, told: int, early: int) -> None:
    """`every`: a run is evaluated once in so many steps, 0: never; `early`: before ten points are lost."""
    raised = {name: one for name in COLLAPSES if (one := first_collapse(evaluated_every(every, RUNS[name])))}
    assert len(raised) == told
    assert sum(one.step < fallen(RUNS[name]) for name, one in raised.items()) == early


def evaluated_every(every: int, records: Records) -> Records:
    """Without the evaluations of the other steps."""
    return [
        {name: value for name, value in line.items() if not name.startswith("eval/")}
        if every == 0 or line["step"] % every
        else line
        for line in records
    ]


@pytest.mark.parametrize("name", SUDDEN)
def test_a_sudden_one_is_told_in_the_step_of_the_fall_at_the_latest(name: str) -> None:
    raised = first_collapse(RUNS[name])
    assert raised is not None
    assert raised.step <= fallen(RUNS[name])


def test_seven_of_the_sudden_ones_are_told_before() -> None:
    assert sum(one.step < fallen(RUNS[name]) for name, one in raised_of(SUDDEN).items()) == 7


@pytest.mark.parametrize("seed", range(11, 15))
def test_a_reward_that_does_not_fall_with_the_accuracy_is_said_to_be_gamed(seed: int) -> None:
    """The best evaluation is the one before training here, which no reward belongs to."""
    raised = first_collapse(RUNS[f"collapse/reward-turned-{seed}"])
    assert raised is not None
    assert "in step 0) while the reward of training has not: the policy games the reward" in raised.what
    assert raised.cure.endswith("nothing since the starting model is better")


def test_how_often_the_reward_is_said_to_be_gamed() -> None:
    gamed = [name for name, one in raised_of(COLLAPSES).items() if "the policy games the reward" in one.what]
    turned = [name for name in gamed if name.startswith("collapse/reward-turned-")]
    assert (len(turned), len(gamed) - len(turned)) == (11, 8)  # of 12 and of 24
