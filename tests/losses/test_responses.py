"""Means over responses of means over their tokens."""

from __future__ import annotations

import torch

from aspo_megatron.losses.responses import shares


def test_a_mean_weighted_by_shares_is_the_mean_of_the_responses_means() -> None:
    values = torch.tensor([1.0, 2.0, 9.0, 4.0, 5.0, 6.0, 7.0, 100.0])
    mask = torch.tensor([True, True, False, True, True, True, True, False])
    cu_seqlens = torch.tensor([0, 3, 7, 7, 8])  # an empty response, and one that is masked as a whole
    weights = shares(mask, cu_seqlens)
    assert weights.tolist() == [0.5, 0.5, 0.0, 0.25, 0.25, 0.25, 0.25, 0.0]
    assert float((weights * values).sum() / weights.sum()) == (1.5 + 5.5) / 2
