"""Weights for tokens that the engine drew with other probabilities than the trainer's."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError

from aspo_megatron.config import LossConfig, RunConfig
from aspo_megatron.config.words import RolloutCorrection
from aspo_megatron.losses.rollout_correction import OF_RESPONSES, correction_weights

RATIOS = [0.1, 0.5, 0.999, 1.0, 1.999, 2.0, 2.001, 40.0]
ROLLOUT = torch.full((len(RATIOS),), -3.0, dtype=torch.float64)
OLD = ROLLOUT + torch.tensor([math.log(ratio) for ratio in RATIOS], dtype=torch.float64)


OF_TOKENS: dict[RolloutCorrection, list[float]] = {
    "none": [1.0] * 8,
    "tis": [0.1, 0.5, 0.999, 1.0, 1.999, 2.0, 2.0, 2.0],
    "icepop": [0.0, 0.5, 0.999, 1.0, 1.999, 2.0, 0.0, 0.0],
}


@pytest.mark.parametrize("kind", OF_TOKENS)
def test_weights(kind: RolloutCorrection) -> None:
    # A hair wider than the bounds, which exp and log do not meet exactly.
    mask, whole = torch.ones(8, dtype=torch.bool), torch.tensor([0, 8])
    weights = correction_weights(kind, (OLD, ROLLOUT), mask, whole, (0.5 - 1e-12, 2.0 + 1e-12))
    assert weights.tolist() == pytest.approx(OF_TOKENS[kind], abs=1e-9)


def kpop(k: list[float], engine: list[float]) -> list[float]:
    def coins(one: float, other: float) -> float:
        return one * math.log(one / other) + (1 - one) * math.log((1 - one) / (1 - other))

    pairs = [(p * ratio, p) for ratio, p in zip(k, engine, strict=True)]
    return [float(coins(old, p) <= 0.5 and coins(p, old) <= 0.5) for old, p in pairs]


def mean_of_k3(k: list[float]) -> float:
    return sum(ratio - 1 - math.log(ratio) for ratio in k) / len(k)


OF_RESPONSE: dict[RolloutCorrection, Callable[[list[float], list[float]], list[float]]] = {
    "kpop": kpop,
    "sequence-tis": lambda k, engine: [min(math.prod(k), 2.0)] * len(k),
    "sequence-mask": lambda k, engine: [float(0.5 <= math.prod(k) <= 2.0)] * len(k),
    "geometric-mask": lambda k, engine: [float(0.999 <= math.prod(k) ** (1 / len(k)) <= 1.001)] * len(k),
    "k3-mask": lambda k, engine: [float(mean_of_k3(k) <= 0.01)] * len(k),
}
"""By their own bounds: k and the engine's probability of a response's unmasked tokens."""


def test_every_correction_is_here() -> None:
    assert {*OF_TOKENS, *OF_RESPONSE} == set(get_args(RolloutCorrection))
    assert {kind for kind in OF_RESPONSE if kind != "kpop"} == OF_RESPONSES


@pytest.mark.parametrize("kind", OF_RESPONSE)
def test_weights_of_whole_responses(kind: RolloutCorrection) -> None:
    """Both outcomes come about; masked tokens count nowhere, and have weight 1."""
    generator = torch.Generator().manual_seed(3)
    lengths = [5, 1, 0, 9, 3, 1, 4, 6] * 12
    bounds = torch.tensor([0, *itertools.accumulate(lengths)])
    spread = (
        torch.tensor([3e-4, 3e-3, 0.03, 0.1, 0.3, 2.0])
        .repeat(len(lengths) // 6)
        .repeat_interleave(torch.tensor(lengths))
    )
    old = -0.05 - 3 * torch.rand(sum(lengths), generator=generator, dtype=torch.float64)
    engine = (old + spread * torch.randn(sum(lengths), generator=generator, dtype=torch.float64)).clamp(max=-0.01)
    mask = torch.rand(sum(lengths), generator=generator) < 0.8
    expected = torch.ones(sum(lengths), dtype=torch.float64)
    for start, stop in itertools.pairwise(bounds.tolist()):
        kept = [i for i in range(start, stop) if mask[i]]
        if kept:
            weights = OF_RESPONSE[kind]((old - engine)[kept].exp().tolist(), engine[kept].exp().tolist())
            expected[kept] = torch.tensor(weights, dtype=torch.float64)
    found = correction_weights(kind, (old.masked_fill(~mask, math.inf), engine), mask, bounds)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert len(found[mask].unique()) > 1


def test_a_correction_needs_log_probs_of_the_trainer() -> None:
    settings = {
        "output_dir": "x",
        "model": {"path": "m"},
        "data": {"train": {"kind": "jsonl", "path": "p"}},
        "loss": {"rollout_correction": "tis"},
    }
    RunConfig.model_validate(settings)
    with pytest.raises(ValueError, match="old_log_probs must not be rollout"):
        RunConfig.model_validate(settings | {"train": {"old_log_probs": "rollout"}})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            {"rollout_correction": "k3-mask", "rollout_ratio_min": 0.5},
            "rollout_ratio_min=0.5: rollout_correction=k3",
        ),
        ({"rollout_correction": "tis", "rollout_ratio_min": 0.0}, "rollout_correction=tis has no min; leave it out"),
        (
            {"rollout_correction": "icepop", "rollout_ratio_min": 3.0},
            "is 3 and rollout_ratio_max 2: no token",
        ),
        ({"rollout_correction": "geometric-mask", "rollout_ratio_max": 0.5}, "has 0.999 and 1.001 by itself"),
    ],
)
def test_bounds_that_leave_nothing_are_refused(settings: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(told)):
        LossConfig.model_validate(settings)


def test_bounds_of_none_are_not_looked_at() -> None:
    assert LossConfig(rollout_ratio_min=0.5).rollout_correction == "none"
