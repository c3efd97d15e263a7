"""Group-relative advantages."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from aspo_megatron.errors import UserError
from aspo_megatron.losses.advantages import group_relative


@pytest.mark.parametrize("normalize_std", [True, False])
@pytest.mark.parametrize("size", [2, 3, 16, 64])
def test_against_a_loop_over_groups(size: int, normalize_std: bool) -> None:
    rng = np.random.default_rng(size)
    groups = rng.permutation(np.repeat([7, -2, 100, 0], size))  # in any order, with any numbers
    rewards = rng.normal(size=len(groups)).round(1)
    advantages = group_relative(rewards, groups, normalize_std)
    for group in np.unique(groups):
        own = torch.tensor(rewards[groups == group])
        expected = own - own.mean()
        if normalize_std:
            expected = expected / (own.std() + 1e-6)
        np.testing.assert_allclose(advantages[groups == group], expected.numpy(), rtol=0, atol=1e-13)


def test_a_group_of_two() -> None:
    advantages = group_relative(np.array([1.0, 0.0]), np.array([0, 0]), True)
    np.testing.assert_allclose(advantages, [math.sqrt(0.5), -math.sqrt(0.5)], rtol=3e-6)


def test_one_right_answer_among_64() -> None:
    rewards = np.zeros(64)
    rewards[5] = 1.0
    advantages = group_relative(rewards, np.zeros(64, dtype=np.int64), True)
    assert advantages[5] == pytest.approx(63 / 64 / (1 / 8), rel=1e-4)
    assert advantages.sum() == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("normalize_std", [True, False])
@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, -1 / 3, 1e9])
def test_a_group_that_agrees_gets_exactly_zero(reward: float, size: int, normalize_std: bool) -> None:
    rewards = np.array([reward] * size + [0.0, 1.0])
    groups = np.array([0] * size + [1, 1])
    advantages = group_relative(rewards, groups, normalize_std)
    assert (advantages[:size] == 0.0).all()
    assert advantages[-1] > 0 > advantages[-2]


def test_rewards_that_hardly_differ_stay_small() -> None:
    advantages = group_relative(np.array([0.5, 0.5 + 1e-9]), np.array([0, 0]), True)
    assert np.isfinite(advantages).all()
    assert np.abs(advantages).max() < 1e-3


def test_fp32_rewards_and_no_rewards() -> None:
    groups = np.zeros(2, dtype=np.int32)
    assert group_relative(np.array([1, 0], dtype=np.float32), groups, False).tolist() == [0.5, -0.5]
    assert group_relative(np.zeros(0), groups[:0], True).shape == (0,)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(UserError, match="reward of sample 1"):
        group_relative(np.array([0.0, bad]), np.array([0, 0]), True)
