"""GRPO without importance sampling: an ablation of the ASPO paper, and REINFORCE with a group baseline."""

from __future__ import annotations

from typing import ClassVar

import torch

from aspo_megatron.losses.base import Loss, LossInput, LossOutput, register
from aspo_megatron.losses.stats import ratio_stats
from aspo_megatron.losses.surrogate import ClipRange, RatioTokens, Weights, surrogate


@register
class GrpoWithoutIs(Loss):
    """Every token has the same weight, whatever its ratio: REINFORCE with a group baseline. Nothing is clipped.

    The ASPO paper finds that outcome-supervised GRPO learns as well so, which is its case against token-level ratios.
    The value is -A.

    Denominator: that of the aggregation, over unmasked tokens. Bad tokens: no ratio is used.
    """

    name: ClassVar[str] = "grpo-without-is"
    formula: ClassVar[str] = "w = 1"
    source: ClassVar[str] = "arXiv 2510.06062v2, an ablation"
    token_wise: ClassVar[bool] = True

    def compute(self, inputs: LossInput) -> LossOutput:
        """See `Loss.compute`."""
        tokens = RatioTokens.of(inputs)
        one = torch.ones_like(tokens.ratio).masked_fill(tokens.ratio.isnan(), torch.nan)  # a NaN stays visible
        nowhere = torch.zeros_like(tokens.mask)
        weights = Weights(value=one, gradient=one, dropped=nowhere, capped=nowhere)
        everything = ClipRange(one.new_full((), 0.0), one.new_full((), torch.inf))
        return LossOutput(surrogate(inputs.log_probs, tokens, weights), ratio_stats(tokens, everything, weights))
