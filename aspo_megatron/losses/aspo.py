"""ASPO, asymmetric importance-sampling policy optimization (arXiv 2510.06062), as the paper states it."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from aspo_megatron.losses.base import Loss, LossInput, LossOutput, register
from aspo_megatron.losses.largest_ratio import LARGEST_RATIO
from aspo_megatron.losses.stats import ratio_stats
from aspo_megatron.losses.surrogate import ClipRange, RatioTokens, Weights, surrogate


@register
class Aspo(Loss):
    """ASPO: positive tokens are weighted by 1/r, so that a token that is still unlikely is pushed harder.

    Which tokens are dropped (w = 0, token masking) is decided by r as it is. The flip is the gradient of the surrogate
    A * pi_old * pi / sg(pi^2). The cap limits the weight and keeps the gradient, unlike the dual clip of PPO. At r = 1
    all of this is GRPO.

    The value is -A * w too, but a dropped token counts with w at the bound of the range that it passed, as PPO's
    clip does: the value is continuous in r, and at r = 1 equal to PPO's. The paper defines the gradient only.

    Settings of its source: `loss.aggregation=seq-mean-token-mean` (equation 1; its appendix: a token-level loss).

    Denominator: that of the aggregation, over unmasked tokens; a token without gradient still counts in it.
    Bad tokens: with `dual_clip` null r and 1/r weigh at most e^20, and keep their gradient as under a cap.
    """

    name: ClassVar[str] = "aspo"
    formula: ClassVar[str] = (
        "w = 0  if A > 0 and r > 1 + eps_high, or A < 0 and r < 1 - eps_low\n"
        "w = min(1 / r, dual_clip)  for the other tokens with A > 0\n"
        "w = min(r, dual_clip)  for the other tokens with A < 0"
    )
    source: ClassVar[str] = "arXiv 2510.06062v2"
    token_wise: ClassVar[bool] = True

    eps_low: float = Field(0.2, ge=0.0, le=1.0, description="Negative tokens with r < 1 - eps_low get no gradient.")
    eps_high: float = Field(
        0.2, ge=0.0, allow_inf_nan=False, description="Positive tokens with r > 1 + eps_high get no gradient."
    )
    dual_clip: float | None = Field(
        3.0, gt=1.0, allow_inf_nan=False, description="Cap c of the gradient weight, for both signs; null for no cap."
    )

    def compute(self, inputs: LossInput) -> LossOutput:
        """See `Loss.compute`."""
        tokens = RatioTokens.of(inputs)
        clip_range = ClipRange.around_one(self.eps_low, self.eps_high, inputs.log_probs)
        return aspo_loss(inputs.log_probs, tokens, clip_range, self.dual_clip)


def aspo_loss(log_probs: Tensor, tokens: RatioTokens, clip_range: ClipRange, dual_clip: float | None) -> LossOutput:
    """ASPO's loss and stats for a clip range that may differ from token to token.

    Args:
        log_probs: [tokens], carries the gradient.
        tokens: the same tokens, detached.
        clip_range: bounds of the ratio.
        dual_clip: cap of the gradient weight, or None.
    """
    weights = aspo_weights(tokens, clip_range, dual_clip)
    return LossOutput(surrogate(log_probs, tokens, weights), ratio_stats(tokens, clip_range, weights))


def aspo_weights(tokens: RatioTokens, clip_range: ClipRange, dual_clip: float | None) -> Weights:
    """Masking on the unflipped ratio, flipped weight for A > 0, cap: see `Aspo`."""
    clipped = clip_range.clip(tokens)
    flipped = torch.where(tokens.advantages > 0, clipped.reciprocal().clamp(max=LARGEST_RATIO), clipped)
    outside = clip_range.outside(tokens)
    if dual_clip is None:
        value, capped = flipped, torch.zeros_like(outside)
    else:
        value, capped = flipped.clamp(max=dual_clip), ~outside & (flipped > dual_clip)
    return Weights(value=value, gradient=value.masked_fill(outside, 0.0), dropped=outside, capped=capped)
