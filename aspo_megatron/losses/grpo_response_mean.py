"""GRPO with one ratio for all tokens of a positive response: an ablation of the ASPO paper."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field

from aspo_megatron.losses.base import Loss, LossInput, LossOutput, register
from aspo_megatron.losses.ppo_clip import ppo_weights
from aspo_megatron.losses.responses import response_mean
from aspo_megatron.losses.stats import ratio_stats
from aspo_megatron.losses.surrogate import ClipRange, RatioTokens, surrogate


@register
class GrpoResponseMean(Loss):
    """`grpo`, but a token with A > 0 is weighted by the mean ratio of its response's unmasked tokens.

    Which tokens are clipped is still decided by each token's own ratio, as in `grpo`. So tokens of a response differ in
    whether they are pushed, not in how hard. The value at an unclipped positive token is -A * mean ratio.

    It is not token-wise: the mean needs the whole response, so the tensors must hold whole responses.

    Denominator: that of the aggregation, over unmasked tokens; a token without gradient still counts in it.
    Bad tokens: a ratio counts at most e^20 in the mean of its response; else as `grpo`.
    """

    name: ClassVar[str] = "grpo-response-mean"
    formula: ClassVar[str] = (
        "w = 0  if A > 0 and r > 1 + eps_high, or A < 0 and r < 1 - eps_low\n"
        "w = mean of r over the response  for the other tokens with A > 0\n"
        "w = r  for the other tokens with A < 0"
    )
    source: ClassVar[str] = "arXiv 2510.06062v2, an ablation"
    token_wise: ClassVar[bool] = False

    eps_low: float = Field(0.2, ge=0.0, le=1.0, description="Negative tokens with r < 1 - eps_low get no gradient.")
    eps_high: float = Field(
        0.2, ge=0.0, allow_inf_nan=False, description="Positive tokens with r > 1 + eps_high get no gradient."
    )

    def compute(self, inputs: LossInput) -> LossOutput:
        """See `Loss.compute`."""
        tokens = RatioTokens.of(inputs)
        clip_range = ClipRange.around_one(self.eps_low, self.eps_high, inputs.log_probs)
        weights = ppo_weights(tokens, clip_range, None)
        shared = (tokens.advantages > 0) & ~weights.dropped
        mean = response_mean(tokens.ratio, inputs.mask, inputs.cu_seqlens)
        weights = replace(
            weights,
            value=torch.where(shared, mean, weights.value),
            gradient=torch.where(shared, mean, weights.gradient),
        )
        return LossOutput(surrogate(inputs.log_probs, tokens, weights), ratio_stats(tokens, clip_range, weights))
