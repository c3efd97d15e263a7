"""The step's loss is the same however the step is split, and is what its name says."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from aspo_megatron.config.words import Aggregation
from aspo_megatron.losses.aggregation import denominator_share, token_weight

MODES = get_args(Aggregation)
MAX_TOKENS = 8


def responses() -> tuple[list[Tensor], list[Tensor]]:
    """Per-token losses and masks of ragged responses: one fully masked, one of one token, one at the limit."""
    generator = torch.Generator().manual_seed(0)
    losses = [torch.randn(n, generator=generator, dtype=torch.float64) for n in (3, 8, 1, 4, 5, 2)]
    masks = [torch.rand(len(loss), generator=generator) < 0.7 for loss in losses]
    masks[1][:] = True
    masks[2][:] = True
    masks[3][:] = False
    return losses, masks


def numerator(mode: Aggregation, losses: list[Tensor], masks: list[Tensor]) -> float:
    """What one micro-batch contributes."""
    parts = [
        (loss * mask * token_weight(mode, int(mask.sum()))).sum() for loss, mask in zip(losses, masks, strict=True)
    ]
    return float(sum(parts))


def denominator(mode: Aggregation, masks: list[Tensor]) -> float:
    return sum(denominator_share(mode, int(mask.sum()), MAX_TOKENS) for mask in masks)


def by_definition(mode: Aggregation, losses: list[Tensor], masks: list[Tensor]) -> float:
    kept = [loss[mask] for loss, mask in zip(losses, masks, strict=True) if mask.any()]
    match mode:
        case "token-mean":
            return float(torch.cat(kept).mean())
        case "seq-mean-token-mean":
            return float(torch.stack([loss.mean() for loss in kept]).mean())
        case "seq-mean-token-sum":
            return float(torch.stack([loss.sum() for loss in kept]).mean())
        case "seq-mean-token-sum-norm":
            return float(torch.stack([loss.sum() / MAX_TOKENS for loss in kept]).mean())


@pytest.mark.parametrize("mode", MODES)
def test_is_what_the_name_says(mode: Aggregation) -> None:
    losses, masks = responses()
    assert numerator(mode, losses, masks) / denominator(mode, masks) == pytest.approx(
        by_definition(mode, losses, masks), abs=1e-14
    )


@pytest.mark.parametrize("split", [[6], [1, 5], [3, 3], [2, 1, 3], [1] * 6])
@pytest.mark.parametrize("mode", MODES)
def test_the_split_into_micro_batches_does_not_matter(mode: Aggregation, split: list[int]) -> None:
    losses, masks = responses()
    total, start = 0.0, 0
    for size in split:
        part = slice(start, start + size)
        total += numerator(mode, losses[part], masks[part]) / denominator(mode, masks)
        start += size
    assert start == len(losses)
    assert total == pytest.approx(by_definition(mode, losses, masks), abs=1e-14)


@pytest.mark.parametrize("mode", MODES)
def test_fully_masked_responses_count_zero(mode: Aggregation) -> None:
    assert token_weight(mode, 0) == denominator_share(mode, 0, MAX_TOKENS) == 0.0


TABLE = {
    "token-mean": (1.0, 5.0),
    "seq-mean-token-mean": (0.2, 1.0),
    "seq-mean-token-sum": (1.0, 1.0),
    "seq-mean-token-sum-norm": (1.0, 8.0),
}
"""Weight and share of the denominator of a response of five tokens."""


def test_every_mode_is_in_the_table() -> None:
    assert set(TABLE) == set(MODES)


@pytest.mark.parametrize("mode", MODES)
def test_table(mode: Aggregation) -> None:
    assert (token_weight(mode, 5), denominator_share(mode, 5, MAX_TOKENS)) == TABLE[mode]
