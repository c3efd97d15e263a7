"""Advantages of the parts of a mixture (GDPO), as plain Python has them, whatever the ranks."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from parallel.layouts import PLATFORM
from pydantic import ValidationError

from aspo_megatron.config import ParallelConfig, RunConfig
from aspo_megatron.data.samples import Problem, Sample
from aspo_megatron.parallel.grid.topology import process_grid
from aspo_megatron.rewards.scoring import ScoredGroup
from aspo_megatron.rewards.workers.pool import Reward
from aspo_megatron.train.advantages import set_advantages
from distributed import Ranks

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(120)]

WEIGHTS = {"right": 1.0, "short": 0.5, "clean": -2.0}
PARTS: list[list[dict[str, float]]] = [
    [{"right": 1.0, "short": 0.02}, {"right": 0.0, "short": 0.01}, {"right": 0.0, "short": 0.04}],
    [{"right": 1.0, "short": 0.3}, {"right": 1.0, "short": 0.3}],  # teaches nothing
    [{"right": 0.0, "short": 1.0, "clean": 0.0}, {"right": 1.0, "short": 0.5, "clean": 0.5}],  # a sum of 0.5 each
    [{"right": 1.0}, {}, {"right": 1.0}],  # the second could not be scored
]


def config(**settings: Any) -> RunConfig:
    components = {name: {"kind": "math", "weight": weight} for name, weight in WEIGHTS.items()}
    return RunConfig.model_validate(
        {
            "output_dir": Path("unused"),
            "model": {"path": Path("unused")},
            "data": {"train": {"kind": "jsonl", "path": "unused"}},
            "rollout": {"sampling": {"max_response_tokens": 16}},
            "reward": {"kind": "mixture", "components": components},
            "advantage": {"of": "parts"},
            **settings,
        }
    )


def group_of(number: int, parts: Sequence[dict[str, float]]) -> list[Sample]:
    token, mask, log_prob = np.array([3]), np.array([True]), np.array([-1.0], dtype=np.float32)
    return [Sample(f"p{number}", number, token, token, mask, log_prob, 0, "stop", reward_parts=each) for each in parts]


def make_groups() -> list[list[Sample]]:
    return [group_of(number, parts) for number, parts in enumerate(PARTS)]


def advantages(layout: ParallelConfig, settings: dict[str, Any]) -> dict[tuple[int, int], float]:
    with process_grid(layout, PLATFORM, seed=1) as topology:
        groups = make_groups()[topology.dp.rank :: topology.dp.size]
        assert set_advantages([groups[:1], groups[1:]], config(**settings), topology) == {}
        return {(g[0].group, place): sample.advantage for g in groups for place, sample in enumerate(g)}


def expected() -> dict[tuple[int, int], float]:
    sums: dict[tuple[int, int], float] = {}
    for number, group in enumerate(PARTS):
        for name, weight in WEIGHTS.items():
            values = [parts.get(name, 0.0) for parts in group]
            deviation, mean = statistics.stdev(values), statistics.fmean(values)
            for place, value in enumerate(values):
                of_part = (value - mean) / (deviation + 1e-6)
                sums[number, place] = sums.get((number, place), 0.0) + weight * of_part
    mean, deviation = statistics.fmean(sums.values()), statistics.stdev(sums.values())
    return {key: (value - mean) / (deviation + 1e-6) for key, value in sums.items()}


def test_against_plain_python() -> None:
    found = advantages(ParallelConfig(), {})
    assert found == pytest.approx(expected(), abs=1e-12)
    assert found[1, 0] == found[1, 1] == 0.0
    assert abs(found[2, 0]) > 0.1  # equal sums, told apart by their parts


def test_on_any_ranks(ranks: Ranks) -> None:
    (one,) = ranks.run(1, advantages, ParallelConfig(), {})
    for layout in (ParallelConfig(dp=2), ParallelConfig(tp=2)):
        parts = ranks.run(2, advantages, layout, {})
        assert {key: value for found in parts for key, value in found.items()} == one


def test_a_part_counts_by_its_weight_however_small_its_values_are() -> None:
    """Of GRPO on the sum a part of a hundredth's differences is a hundredth, too."""
    generator = np.random.default_rng(0)
    drawn = generator.integers(0, 2, (2, 8, 2)).astype(float)
    samples = [[{"right": right, "short": 0.01 * short} for right, short in group] for group in drawn.tolist()]
    groups = [group_of(number, parts) for number, parts in enumerate(samples)]
    with process_grid(ParallelConfig(), PLATFORM, seed=1) as topology:
        set_advantages([groups], config(), topology)
    flat = [(sample.reward_parts, sample.advantage) for group in groups for sample in group]
    of_short = {short: [a for p, a in flat if p["right"] == 1.0 and p["short"] == short] for short in (0.0, 0.01)}
    gap = statistics.fmean(of_short[0.01]) - statistics.fmean(of_short[0.0])
    assert math.isfinite(gap)
    assert gap > 0.3


@pytest.mark.parametrize("counting", [(), ("a", "b")])
def test_groups_of_equal_sums_teach_by_their_parts(counting: tuple[str, ...]) -> None:
    """A part without a weight does not count, and what could not be scored has parts of 0."""

    def agree(*parts: dict[str, float]) -> bool:
        rewards = [Reward(0.5, None, each) for each in parts]
        return ScoredGroup(Problem("p", "", (1,)), [], [], rewards, frozenset(counting)).has_equal_rewards

    assert agree({"a": 1.0, "b": 0.0}, {"a": 0.0, "b": 1.0}) == (not counting)
    assert agree({"a": 1.0, "b": 0.0, "c": 0.0}, {"a": 1.0, "b": 0.0, "c": 1.0})
    assert agree({"a": 0.0, "b": 0.0}, {})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"reward": {"kind": "math"}}, "advantage.of=parts: reward.kind=math has no parts; use reward.kind=mixture"),
        ({"shaping": {"overlong_tokens": 4}}, "set shaping.overlong_tokens=0 and make it a part of the mixture"),
        ({"shaping": {"kl_coef": 0.1}}, "set shaping.kl_coef=0"),
    ],
)
def test_what_is_no_part_is_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told.replace(".", r"\.")):
        config(**settings)
