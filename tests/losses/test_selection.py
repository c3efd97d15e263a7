"""What losses choose of a whole update, against plain Python; in fp64."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aspo_megatron.losses import Loss, UpdateTokens, build, get, names

NUMBER = 4000


def update_tokens(number: int = NUMBER, spread: float = 0.3, seed: int = 3) -> UpdateTokens:
    """Tokens of responses of five, each with an advantage; some of them 0."""
    generator = np.random.default_rng(5)
    old = -generator.exponential(1.5, number)
    advantages = generator.choice([-1.5, -0.5, 0.0, 0.7, 1.4], -(-number // 5)).repeat(5)[:number]
    return UpdateTokens(old + spread * generator.standard_normal(number), old, advantages, seed)


def chosen(name: str, tokens: UpdateTokens, **hyperparameters: float) -> list[int]:
    found = build(name, hyperparameters).select(tokens)
    assert found.shape == tokens.log_probs.shape
    assert found.dtype == np.bool_
    return [int(place) for place in np.nonzero(found)[0]]


def moments(tokens: UpdateTokens) -> dict[int, float]:
    """(log r)^2 of each outward token."""
    triples = zip(tokens.log_probs, tokens.old_log_probs, tokens.advantages, strict=True)
    logs = {place: (float(now - old), float(advantage)) for place, (now, old, advantage) in enumerate(triples)}
    return {place: log * log for place, (log, advantage) in logs.items() if log * advantage > 0}


@pytest.mark.parametrize("budget", [0.04, 0.01, 0.08])
def test_m2po_drops_the_largest_until_the_mean_of_the_rest_is_within_the_budget(budget: float) -> None:
    left, dropped = moments(update_tokens()), set()
    while math.fsum(left.values()) / len(left) > budget:
        largest = max(left, key=lambda place: left[place])
        dropped.add(largest)
        del left[largest]
    assert 0 < len(dropped) < NUMBER / 3
    assert chosen("m2po", update_tokens(), budget=budget) == sorted(dropped)


def test_m2po_drops_none_on_policy_nor_within_the_budget_and_all_of_none() -> None:
    assert chosen("m2po", update_tokens(spread=0.0)) == []
    assert chosen("m2po", update_tokens(spread=0.1)) == []
    assert chosen("m2po", update_tokens(), budget=0.0) == sorted(moments(update_tokens()))


def covariances(tokens: UpdateTokens) -> list[float]:
    count = len(tokens.log_probs)
    log_prob, advantage = (math.fsum(values) / count for values in (tokens.log_probs, tokens.advantages))
    pairs = zip(tokens.log_probs, tokens.advantages, strict=True)
    return [(float(one) - log_prob) * (float(other) - advantage) for one, other in pairs]


@pytest.mark.parametrize("share", [2e-3, 0.1])
def test_kl_cov_holds_the_tokens_of_largest_covariance(share: float) -> None:
    values = covariances(update_tokens())
    largest = sorted(range(NUMBER), key=lambda place: -values[place])[: int(share * NUMBER)]
    assert chosen("kl-cov", update_tokens(), share=share) == sorted(largest)


def test_clip_cov_draws_evenly_from_a_range_of_covariances() -> None:
    values, tokens = covariances(update_tokens()), update_tokens()
    candidates = {place for place, value in enumerate(values) if 1.0 <= value <= 5.0}
    assert len(candidates) > 200
    drawn = [chosen("clip-cov", update_tokens(seed=seed), share=0.01, eps_high=9.0) for seed in range(300)]
    assert all(len(each) == int(0.01 * NUMBER) and set(each) <= candidates for each in drawn)
    counts = np.bincount([place for each in drawn for place in each], minlength=NUMBER)[sorted(candidates)]
    chance = int(0.01 * NUMBER) / len(candidates)  # of each, in each draw
    variance = len(drawn) * chance * (1 - chance)
    assert ((counts - len(drawn) * chance) ** 2 / variance).mean() == pytest.approx(1.0, abs=0.3)
    assert chosen("clip-cov", tokens, share=0.01, eps_high=9.0) == chosen("clip-cov", tokens, share=0.01, eps_high=9.0)
    assert set(chosen("clip-cov", tokens, share=1.0, eps_high=9.0)) == candidates


def test_clip_cov_leaves_clipped_tokens_out_of_the_draw() -> None:
    tokens = update_tokens()
    ratios = np.exp(tokens.log_probs - tokens.old_log_probs)
    drawn = chosen("clip-cov", tokens, share=1.0, eps_low=0.2, eps_high=0.2)
    assert drawn
    assert all(ratios[place] >= 0.8 if tokens.advantages[place] < 0 else ratios[place] <= 1.2 for place in drawn)


@pytest.mark.parametrize("name", ["clip-cov", "kl-cov"])
def test_at_least_one_is_chosen_but_not_of_a_share_of_none(name: str) -> None:
    tokens = update_tokens(50, spread=0.0)
    assert len(chosen(name, tokens)) == 1
    assert chosen(name, tokens, share=0.0) == []


@pytest.mark.parametrize("name", names())
def test_every_loss_takes_an_update_without_a_token(name: str) -> None:
    assert chosen(name, update_tokens(0)) == []


@pytest.mark.parametrize("name", names())
def test_a_loss_that_chooses_says_so(name: str) -> None:
    assert (get(name).select is not Loss.select) == get(name).selects
