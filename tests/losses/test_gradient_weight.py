"""The weight that a loss gives the gradient of a token."""

from __future__ import annotations

import math

import pytest
import torch

from aspo_megatron import losses
from aspo_megatron.losses.gradient_weight import gradient_weights

RATIOS = [0.2, 0.9, 1.0, 1.1, 1.3, 5.0, 0.5]


@pytest.mark.parametrize(
    ("name", "advantage", "expected"),
    [
        ("aspo", 1.0, [3.0, 1 / 0.9, 1.0, 1 / 1.1, 0.0, 0.0]),
        ("aspo", -2.0, [0.0, 0.9, 1.0, 1.1, 1.3, 3.0]),
        ("grpo", 1.0, [0.2, 0.9, 1.0, 1.1, 0.0, 0.0]),
        ("grpo", 0.0, [0.0] * 6),
    ],
)
def test_weights_of_a_response(name: str, advantage: float, expected: list[float]) -> None:
    size = len(RATIOS)
    mask = torch.tensor([True] * (size - 1) + [False])
    weights = gradient_weights(
        losses.build(name, {}),
        torch.tensor([math.log(ratio) - 2.0 for ratio in RATIOS], dtype=torch.float64),
        torch.full((size,), -2.0, dtype=torch.float64),
        torch.full((size,), advantage, dtype=torch.float64),
        mask,
        torch.zeros(size, dtype=torch.float64),
        torch.tensor([0, size]),
    )
    assert weights.tolist() == pytest.approx([*expected, 0.0], abs=1e-12)
