"""CE-GPPO (arXiv 2509.20712v5): tokens beyond the clip range keep a part of their gradient, to steer the entropy."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from aspo_megatron.losses.base import Loss, LossInput, LossOutput, register
from aspo_megatron.losses.stats import ratio_stats
from aspo_megatron.losses.surrogate import ClipRange, RatioTokens, Weights, surrogate


@register
class CeGppo(Loss):
    """Tokens beyond the clip range keep a part of the bound's weight, by which the entropy is steered.

    The value is -A * w. Both betas 0 have the gradient of `grpo`. A larger beta_positive keeps exploring, a larger
    beta_negative settles sooner.

    Settings of its source: `loss.aggregation=token-mean`; beta_negative 0.5 for a model of 1.5B, 0.75 for one of 7B.

    Sources disagree: the paper's text exchanges the two betas (beta_1, beta_2), its equation and its code do not; its
    code has a dual clip besides, which the paper does not name.

    Denominator: that of the aggregation, over unmasked tokens.
    Bad tokens: a negative token with r > e^20 has the loss -A * e^20 and no gradient.
    """

    name: ClassVar[str] = "ce-gppo"
    formula: ClassVar[str] = (
        "w = beta_positive (1 + eps_high)  if A > 0 and r > 1 + eps_high\n"
        "w = beta_negative (1 - eps_low)  if A < 0 and r < 1 - eps_low\n"
        "w = r  for the other tokens"
    )
    source: ClassVar[str] = "arXiv 2509.20712v5, eq. 8 to 10"
    token_wise: ClassVar[bool] = True

    eps_low: float = Field(
        0.2, ge=0.0, le=1.0, description="Negative tokens with r < 1 - eps_low are beyond the range."
    )
    eps_high: float = Field(
        0.2, ge=0.0, allow_inf_nan=False, description="Positive tokens with r > 1 + eps_high are beyond the range."
    )
    beta_positive: float = Field(
        1.0,
        ge=0.0,
        allow_inf_nan=False,
        description="Share of the bound that positive tokens beyond it weigh (beta_2).",
    )
    beta_negative: float = Field(
        0.5,
        ge=0.0,
        allow_inf_nan=False,
        description="Share of the bound that negative tokens beyond it weigh (beta_1).",
    )

    def compute(self, inputs: LossInput) -> LossOutput:
        """See `Loss.compute`."""
        tokens = RatioTokens.of(inputs)
        clip_range = ClipRange.around_one(self.eps_low, self.eps_high, inputs.log_probs)
        outside = clip_range.outside(tokens)
        share = torch.where(tokens.advantages > 0, self.beta_positive, self.beta_negative).to(tokens.ratio.dtype)
        value = torch.where(outside, share * clip_range.clip(tokens), tokens.ratio)
        lost = tokens.beyond & (tokens.advantages < 0)
        gradient = value.masked_fill(lost, 0.0)
        weights = Weights(value, gradient, dropped=gradient == 0.0, capped=torch.zeros_like(outside))
        return LossOutput(surrogate(inputs.log_probs, tokens, weights), ratio_stats(tokens, clip_range, weights))
