"""Weights for tokens that the engine drew with other probabilities than the trainer's."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from aspo_megatron.config import RunConfig
from aspo_megatron.config.words import RolloutCorrection
from aspo_megatron.losses.rollout_correction import correction_weights

RATIOS = [0.1, 0.5, 0.999, 1.0, 1.999, 2.0, 2.001, 40.0]
ROLLOUT = torch.full((len(RATIOS),), -3.0, dtype=torch.float64)
OLD = ROLLOUT + torch.tensor([math.log(ratio) for ratio in RATIOS], dtype=torch.float64)


WEIGHTS = {
    "none": [1.0] * 8,
    "tis": [0.1, 0.5, 0.999, 1.0, 1.999, 2.0, 2.0, 2.0],
    "icepop": [0.0, 0.5, 0.999, 1.0, 1.999, 2.0, 0.0, 0.0],
}


def test_every_correction_is_here() -> None:
    assert set(WEIGHTS) == set(get_args(RolloutCorrection))


@pytest.mark.parametrize("kind", get_args(RolloutCorrection))
def test_weights(kind: RolloutCorrection) -> None:
    # A hair wider than the bounds, which exp and log do not meet exactly.
    weights = correction_weights(kind, OLD, ROLLOUT, ratio_min=0.5 - 1e-12, ratio_max=2.0 + 1e-12)
    assert weights.tolist() == pytest.approx(WEIGHTS[kind], abs=1e-9)


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
