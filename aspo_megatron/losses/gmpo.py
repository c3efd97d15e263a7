"""GMPO, geometric-mean policy optimization (arXiv 2507.20673): clipped token ratios, joined by their geometric mean."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from aspo_megatron.losses.base import Loss, LossInput, LossOutput, register
from aspo_megatron.losses.largest_ratio import bounded
from aspo_megatron.losses.responses import response_mean
from aspo_megatron.losses.stats import ratio_stats
from aspo_megatron.losses.surrogate import ClipRange, RatioTokens, Weights, surrogate


@register
class Gmpo(Loss):
    """The geometric mean of a response's ratios, each clipped first, in log space.

    Every token has the value -s A; which have a gradient is decided by each token's own ratio. GSPO clips the mean of
    the response, this the tokens in it, far less narrowly.

    It is not token-wise: s needs the whole response, so the tensors must hold whole responses.

    Settings of its source: `loss.aggregation=seq-mean-token-mean`, with which this is the paper's objective exactly.

    Denominator: that of the aggregation, over unmasked tokens; a clipped token still counts in it, and in |y|.
    Bad tokens: one with log r > 20 counts 20 in the mean of a negative response, and has no gradient.
    """

    name: ClassVar[str] = "gmpo"
    formula: ClassVar[str] = (
        "c = min(r, exp(eps_high))  if A > 0, max(r, exp(-eps_low))  if A < 0\n"
        "s = (product of c over the response) ^ (1 / |y|)\n"
        "w = 0  if A > 0 and log r > eps_high, or A < 0 and log r < -eps_low\n"
        "w = s  for the other tokens"
    )
    source: ClassVar[str] = "arXiv 2507.20673"
    token_wise: ClassVar[bool] = False

    eps_low: float = Field(
        0.4, ge=0.0, allow_inf_nan=False, description="Negative tokens with log r < -eps_low get no gradient."
    )
    eps_high: float = Field(
        0.4, ge=0.0, allow_inf_nan=False, description="Positive tokens with log r > eps_high get no gradient."
    )

    def compute(self, inputs: LossInput) -> LossOutput:
        """See `Loss.compute`."""
        tokens = RatioTokens.of(inputs)
        bounds = inputs.log_probs.new_tensor([-self.eps_low, self.eps_high])
        clip_range = ClipRange(*bounds.exp())
        log_ratio = bounded(tokens.log_ratio)
        of_positive, of_negative = log_ratio.minimum(bounds[1]), log_ratio.maximum(bounds[0])
        of_neutral = log_ratio.clamp(0.0, 0.0)  # not zeros: a NaN must stay one
        positive, negative = tokens.advantages > 0, tokens.advantages < 0
        clipped = torch.where(positive, of_positive, torch.where(negative, of_negative, of_neutral))
        mean = response_mean(clipped, inputs.mask, inputs.cu_seqlens).masked_fill(~inputs.mask, 0.0).exp()
        dropped = clip_range.outside(tokens) | tokens.beyond
        weights = Weights(mean, mean.masked_fill(dropped, 0.0), dropped, torch.zeros_like(tokens.mask))
        return LossOutput(surrogate(inputs.log_probs, tokens, weights), ratio_stats(tokens, clip_range, weights))
