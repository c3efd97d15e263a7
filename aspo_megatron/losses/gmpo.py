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
    """-s A with s = (product of clip(r_t)) ^ (1 / |y|), each token's ratio clipped first, in log space.

    clip(r) is min(r, exp(eps_high)) for A > 0 and max(r, exp(-eps_low)) for A < 0. Every token has the value -s A and,
    where its own ratio is not clipped, the gradient -A * s * grad log pi; with the aggregation seq-mean-token-mean this
    is the paper's objective exactly. GSPO clips the mean of the response, this the tokens in it, far less narrowly.

    It is not token-wise: s needs the whole response, so the tensors must hold whole responses.

    Denominator: that of the aggregation, over unmasked tokens; a clipped token still counts in it, and in |y|.
    Bad tokens: one with log r > 20 counts 20 in the mean of a negative response, and has no gradient.
    """

    name: ClassVar[str] = "gmpo"
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
