"""Group-relative advantages."""

from __future__ import annotations

import itertools
import math
from typing import get_args

import numpy as np
import pytest
import torch

from aspo_megatron.config.words import Baseline, Scale
from aspo_megatron.errors import UserError
from aspo_megatron.losses.advantage_estimators import estimate_advantages

BASELINES: tuple[Baseline, ...] = get_args(Baseline)
SCALES: tuple[Scale, ...] = get_args(Scale)
OF_A_GROUP = [baseline for baseline in BASELINES if baseline != "batch"]
every_way = pytest.mark.parametrize(("baseline", "scale"), list(itertools.product(BASELINES, SCALES)))


@every_way
@pytest.mark.parametrize("size", [2, 3, 16, 64])
def test_against_a_loop_over_samples(size: int, baseline: Baseline, scale: Scale) -> None:
    rng = np.random.default_rng(size)
    groups = rng.permutation(np.repeat([7, -2, 100, 0], size))  # in any order, with any numbers
    rewards = rng.normal(size=len(groups)).round(1)
    expected = []
    for index, reward in enumerate(rewards):
        others = [r for i, r in enumerate(rewards) if groups[i] == groups[index] and i != index]
        compared = {"group": [*others, reward], "leave-one-out": others, "batch": [*rewards]}[baseline]
        expected.append(reward - sum(compared) / len(compared))
    if scale == "group":
        deviations = {group: torch.tensor(rewards[groups == group]).std().item() for group in groups}
        expected = [value / (deviations[group] + 1e-6) for value, group in zip(expected, groups, strict=True)]
    elif scale == "batch":
        expected = (torch.tensor(expected) / (torch.tensor(expected).std() + 1e-6)).tolist()
    elif scale == "mean":
        means = [rewards[groups == group].mean() for group in groups]
        assert any(mean > 0 for mean in means)
        expected = [value / mean if mean > 0 else 0.0 for value, mean in zip(expected, means, strict=True)]
    np.testing.assert_allclose(estimate_advantages(rewards, groups, baseline, scale), expected, rtol=0, atol=1e-12)


def test_a_group_of_two() -> None:
    advantages = estimate_advantages(np.array([1.0, 0.0]), np.array([0, 0]), "group", "group")
    np.testing.assert_allclose(advantages, [math.sqrt(0.5), -math.sqrt(0.5)], rtol=3e-6)


@pytest.mark.parametrize("right", [1, 3, 15])
def test_maximum_likelihood(right: int) -> None:
    """MaxRL: (r - mean) / mean is N / k - 1 for a right response among N with k right, and -1 for a wrong one."""
    rewards = np.array([1.0] * right + [0.0] * (16 - right))
    advantages = estimate_advantages(rewards, np.zeros(16, dtype=np.int64), "group", "mean")
    np.testing.assert_allclose(advantages, [16 / right - 1] * right + [-1.0] * (16 - right), rtol=1e-14)


def test_one_right_answer_among_64() -> None:
    rewards = np.zeros(64)
    rewards[5] = 1.0
    advantages = estimate_advantages(rewards, np.zeros(64, dtype=np.int64), "group", "group")
    assert advantages[5] == pytest.approx(63 / 64 / (1 / 8), rel=1e-4)
    assert advantages.sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("baseline", OF_A_GROUP)
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, -1 / 3, 1e9])
def test_a_group_that_agrees_gets_exactly_zero(reward: float, size: int, baseline: Baseline, scale: Scale) -> None:
    rewards = np.array([reward] * size + [0.0, 1.0])
    groups = np.array([0] * size + [1, 1])
    advantages = estimate_advantages(rewards, groups, baseline, scale)
    assert (advantages[:size] == 0.0).all()
    assert advantages[-1] > 0 > advantages[-2]


@every_way
def test_a_batch_that_agrees_gets_exactly_zero(baseline: Baseline, scale: Scale) -> None:
    assert (estimate_advantages(np.full(12, 0.1), np.arange(12) // 3, baseline, scale) == 0.0).all()


def test_rewards_that_hardly_differ_stay_small() -> None:
    advantages = estimate_advantages(np.array([0.5, 0.5 + 1e-9]), np.array([0, 0]), "group", "group")
    assert np.isfinite(advantages).all()
    assert np.abs(advantages).max() < 1e-3


def test_fp32_rewards_and_no_rewards() -> None:
    groups = np.zeros(2, dtype=np.int32)
    assert estimate_advantages(np.array([1, 0], dtype=np.float32), groups, "group", "none").tolist() == [0.5, -0.5]
    assert estimate_advantages(np.zeros(0), groups[:0], "group", "group").shape == (0,)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(UserError, match="reward of sample 1"):
        estimate_advantages(np.array([0.0, bad]), np.array([0, 0]), "group", "group")
