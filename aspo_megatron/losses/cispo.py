"""CISPO, clipped importance-sampling weights (MiniMax-M1, arXiv 2506.13585)."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from aspo_megatron.losses.base import Loss, LossInput, LossOutput, register
from aspo_megatron.losses.stats import ratio_stats
from aspo_megatron.losses.surrogate import ClipRange, RatioTokens, Weights, surrogate


@register
class Cispo(Loss):
    """No token is dropped: the weight is the clipped ratio, for both signs.

    The value is -A * w. eps_low = 1 means no lower bound, as in the paper, which tunes the upper one alone; 4 is in the
    range that later work found to be safe.

    Denominator: that of the aggregation, over unmasked tokens. Bad tokens: the bound e^20 is above 1 + eps_high.
    """

    name: ClassVar[str] = "cispo"
    formula: ClassVar[str] = "w = sg(clip(r, 1 - eps_low, 1 + eps_high))"
    source: ClassVar[str] = "arXiv 2506.13585"
    token_wise: ClassVar[bool] = True

    eps_low: float = Field(1.0, ge=0.0, le=1.0, description="The weight is at least 1 - eps_low.")
    eps_high: float = Field(4.0, ge=0.0, allow_inf_nan=False, description="The weight is at most 1 + eps_high.")

    def compute(self, inputs: LossInput) -> LossOutput:
        """See `Loss.compute`."""
        tokens = RatioTokens.of(inputs)
        clip_range = ClipRange.around_one(self.eps_low, self.eps_high, inputs.log_probs)
        weight = torch.minimum(torch.maximum(tokens.ratio, clip_range.lower), clip_range.upper)
        weights = Weights(
            value=weight, gradient=weight, dropped=torch.zeros_like(tokens.mask), capped=tokens.ratio != weight
        )
        return LossOutput(surrogate(inputs.log_probs, tokens, weights), ratio_stats(tokens, clip_range, weights))
