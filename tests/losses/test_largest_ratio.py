"""However far apart two policies are at a token, no loss, KL, weight, gradient or figure overflows."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import Tensor

from aspo_megatron.config import LossConfig
from aspo_megatron.config.words import KlEstimator, RolloutCorrection
from aspo_megatron.data.packing import PackedBatch
from aspo_megatron.losses import build, get, kl, names
from aspo_megatron.losses.gradient_weight import gradient_weights
from aspo_megatron.losses.largest_ratio import LARGEST_RATIO, MOST_NATS
from aspo_megatron.losses.rollout_correction import correction_weights
from aspo_megatron.parallel.update.objective import PolicyObjective, weighted_sum

from .test_policy_losses import call

NATS = [20.0, 88.0, 89.0, 100.0, 1000.0]
TYPES = [torch.float32, torch.bfloat16]
TOKENS = 7
BAD = 3
"""The one token among them at which the policies are far apart."""
OVER_THE_RATIO = {"drpo": 1 + 1 / 12.5}
"""Most that a loss's weight is, as a multiple of the ratio, where that is above 1: by the formula."""


def settings(name: str) -> list[dict[str, Any]]:
    """A loss as it is, and with every bound that can be switched off switched off."""
    optional = {key: None for key, field in get(name).model_fields.items() if type(None) in get_args(field.annotation)}
    return [{}, optional] if optional else [{}]


EVERY_LOSS = [(name, each) for name in names() for each in settings(name)]


def log_probs_apart(nats: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Of two policies; the first finds the bad token e^nats times as likely."""
    first = torch.linspace(-1.5, -0.5, TOKENS, dtype=torch.float64)
    second = first + torch.linspace(-0.3, 0.3, TOKENS, dtype=torch.float64)
    first[BAD], second[BAD] = (-0.5, -0.5 - nats) if nats > 0 else (-0.5 + nats, -0.5)
    return first.to(dtype), second.to(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("nats", [*NATS, *(-nats for nats in NATS)])
@pytest.mark.parametrize(("name", "hyperparameters"), EVERY_LOSS)
def test_one_token_among_many(name: str, hyperparameters: dict[str, Any], nats: float, dtype: torch.dtype) -> None:
    loss = build(name, hyperparameters)
    log_probs, old = log_probs_apart(nats, dtype)
    for sign in (-1.0, 0.0, 1.0):
        given = (log_probs.clone().requires_grad_(), old, torch.full_like(old, 1.5 * sign))
        mask, entropy, bounds = torch.ones(TOKENS).bool(), torch.ones_like(old), torch.tensor([0, TOKENS])
        output = loss(*given, mask, entropy=entropy, cu_seqlens=bounds)
        (gradient,) = torch.autograd.grad(output.per_token.sum(), given[0])
        assert output.per_token.isfinite().all()
        assert gradient.isfinite().all()
        assert gradient.abs().max() <= 1.5 * LARGEST_RATIO * 1.01 * OVER_THE_RATIO.get(name, 1.0)
        for stat_name, stat in output.stats.items():
            assert stat.values.isfinite().all(), stat_name
        assert gradient_weights(loss, *given, mask, entropy, bounds).isfinite().all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("nats", [*NATS, *(-nats for nats in NATS)])
@pytest.mark.parametrize("kind", get_args(KlEstimator))
def test_every_kl(kind: KlEstimator, nats: float, dtype: torch.dtype) -> None:
    ref, log_probs = log_probs_apart(nats, dtype)
    estimate = kl.estimate_kl(kind, log_probs.requires_grad_(), ref)
    (gradient,) = torch.autograd.grad(estimate.sum(), log_probs)
    assert estimate.isfinite().all()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("nats", [*NATS, *(-nats for nats in NATS)])
@pytest.mark.parametrize("kind", get_args(RolloutCorrection))
def test_every_correction(kind: RolloutCorrection, nats: float, dtype: torch.dtype) -> None:
    mask, bounds = torch.ones(TOKENS).bool(), torch.tensor([0, TOKENS])
    weights = correction_weights(kind, log_probs_apart(nats, dtype), mask, bounds)
    assert weights.isfinite().all()


@pytest.mark.parametrize("nats", [-1000.0, -88.0, 88.0, 1000.0])
@pytest.mark.parametrize("name", names())
def test_all_terms_of_an_update_and_what_is_logged(name: str, nats: float) -> None:
    """Old policy, reference and engine all apart from the policy at one token."""
    log_probs, other = log_probs_apart(nats, torch.float32)
    empty = torch.zeros(TOKENS, dtype=torch.int64)
    batch = PackedBatch(
        *(empty, empty, (), empty, empty),
        mask=torch.ones(TOKENS).bool(),
        selected=torch.zeros(TOKENS).bool(),
        weights=torch.full((TOKENS,), 1 / TOKENS),
        advantages=torch.ones(TOKENS),
        old_log_probs=other,
        ref_log_probs=other,
        rollout_log_probs=other,
        cu_seqlens=torch.tensor([0, TOKENS]),
    )
    for kind, correction, sign in itertools.product(get_args(KlEstimator), get_args(RolloutCorrection), (-1.0, 1.0)):
        config = LossConfig(kl_estimator=kind, rollout_correction=correction, kl_coef=0.1)
        signed = replace(batch, advantages=sign * batch.advantages)
        inputs = log_probs.clone().requires_grad_(), torch.ones(TOKENS)
        output = PolicyObjective(build(name, {}), config)(signed, *inputs)
        (gradient,) = torch.autograd.grad(weighted_sum(output, signed), inputs[0])
        assert output.per_token.isfinite().all()
        assert gradient.isfinite().all()
        for stat_name, stat in {**output.stats, **output.peaks}.items():
            assert stat.values.isfinite().all(), stat_name


def clamped_ppo(log_ratio: Tensor, advantage: float) -> Tensor:
    """As reference implementations have it: the log-ratio is clamped, and autograd does the rest."""
    ratio = log_ratio.clamp(max=20.0).exp()
    return -torch.min(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)


def clamped_gspo(log_ratio: Tensor, advantage: float) -> Tensor:
    mean = log_ratio.detach().mean() + (log_ratio - log_ratio.detach())
    ratio = mean.clamp(max=20.0).exp()
    return -torch.min(ratio * advantage, ratio.clamp(1 - 3e-4, 1 + 4e-4) * advantage)


def clamped_gmpo(log_ratio: Tensor, advantage: float) -> Tensor:
    clipped = log_ratio.clamp(max=20.0)
    clipped = clipped.clamp(max=0.4) if advantage > 0 else clipped.clamp(min=-0.4)
    return (-advantage * clipped.mean().exp()).expand(len(log_ratio))


@pytest.mark.parametrize("advantage", [-1.5, 1.5])
@pytest.mark.parametrize("nats", [-1000.0, -25.0, 19.9, 20.1, 150.0, 1000.0])
@pytest.mark.parametrize(("name", "surrogate"), [("grpo", clamped_ppo), ("gspo", clamped_gspo), ("gmpo", clamped_gmpo)])
def test_beyond_the_bound_as_under_a_clamp(
    name: str, surrogate: Callable[[Tensor, float], Tensor], nats: float, advantage: float
) -> None:
    log_ratio = torch.tensor([0.1, nats, -0.1], dtype=torch.float64, requires_grad=True)
    expected = surrogate(log_ratio, advantage)
    (slope,) = torch.autograd.grad(expected.sum(), log_ratio)
    output, gradient = call(build(name, {}), log_ratio.detach(), torch.full((3,), advantage, dtype=torch.float64))
    torch.testing.assert_close(output.per_token.detach(), expected.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(gradient, slope, rtol=1e-12, atol=1e-8)


def test_aspo_without_a_cap_keeps_the_gradient_at_the_bound() -> None:
    log_ratio, advantages = torch.tensor([-1000.0, 1000.0]), torch.tensor([1.0, -1.0])
    _, gradient = call(build("aspo-without-dual-clip", {}), log_ratio, advantages)
    assert gradient.tolist() == pytest.approx([-LARGEST_RATIO, LARGEST_RATIO])


def test_k3_is_bounded_where_the_policy_finds_a_token_too_unlikely_alone() -> None:
    log_probs = torch.tensor([-100.0, -0.5], requires_grad=True)
    estimate = kl.estimate_kl("k3", log_probs, torch.tensor([-0.5, -100.0]))
    (gradient,) = torch.autograd.grad(estimate.sum(), log_probs)
    assert estimate.tolist() == pytest.approx([math.exp(MOST_NATS) - MOST_NATS - 1, 98.5])
    assert gradient.tolist() == [0.0, 1.0]


@pytest.mark.parametrize("name", names())
def test_a_nan_is_not_bounded(name: str) -> None:
    log_ratio = torch.from_numpy(np.array([0.1, np.nan, -0.1]))
    output, _ = call(build(name, {}), log_ratio, torch.ones(3, dtype=torch.float64))
    assert output.per_token[1].isnan()
