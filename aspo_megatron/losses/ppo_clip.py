"""The clipped surrogate of PPO (arXiv 1707.06347), which GRPO (arXiv 2402.03300) uses as it is."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from aspo_megatron.losses.base import Loss, LossInput, LossOutput, register
from aspo_megatron.losses.stats import ratio_stats
from aspo_megatron.losses.surrogate import ClipRange, RatioTokens, Weights, surrogate


@register
class PpoClip(Loss):
    """GRPO, that is PPO-clip on group-relative advantages.

    The value is -min(r A, clip(r, 1 - eps_low, 1 + eps_high) A). With `dual_clip` = c (arXiv 1912.09729) that of a
    token with A < 0 is at most -A * c, reached at r = c. eps_high above eps_low is DAPO's clip-higher.

    Settings of its source: `loss.aggregation=seq-mean-token-mean`, and a KL in the loss.

    Denominator: that of the aggregation, over unmasked tokens; a token without gradient still counts in it.
    Bad tokens: a negative token with r > e^20, without `dual_clip`, has the loss -A * e^20 and no gradient (as verl).
    """

    name: ClassVar[str] = "grpo"
    formula: ClassVar[str] = (
        "w = 0  if A > 0 and r > 1 + eps_high, or A < 0 and (r < 1 - eps_low or r > dual_clip)\n"
        "w = r  for the other tokens"
    )
    source: ClassVar[str] = "arXiv 1707.06347; arXiv 2402.03300"
    token_wise: ClassVar[bool] = True

    eps_low: float = Field(0.2, ge=0.0, le=1.0, description="Negative tokens with r < 1 - eps_low get no gradient.")
    eps_high: float = Field(
        0.2, ge=0.0, allow_inf_nan=False, description="Positive tokens with r > 1 + eps_high get no gradient."
    )
    dual_clip: float | None = Field(
        None,
        gt=1.0,
        allow_inf_nan=False,
        description="Negative tokens with r above this get no gradient; null: all do.",
    )

    def compute(self, inputs: LossInput) -> LossOutput:
        """See `Loss.compute`."""
        tokens = RatioTokens.of(inputs)
        clip_range = ClipRange.around_one(self.eps_low, self.eps_high, inputs.log_probs)
        weights = ppo_weights(tokens, clip_range, self.dual_clip)
        return LossOutput(surrogate(inputs.log_probs, tokens, weights), ratio_stats(tokens, clip_range, weights))


def ppo_weights(tokens: RatioTokens, clip_range: ClipRange, dual_clip: float | None) -> Weights:
    """The clipped ratio, and where it has a gradient: see `PpoClip`."""
    clipped = clip_range.clip(tokens)
    outside = clip_range.outside(tokens)
    if dual_clip is None:
        value, capped = clipped, torch.zeros_like(outside)
    else:
        negative = tokens.advantages < 0
        value = torch.where(negative, clipped.clamp(max=dual_clip), clipped)
        capped = negative & ~outside & (clipped > dual_clip)
    dropped = outside | capped | tokens.beyond
    return Weights(value=value, gradient=value.masked_fill(dropped, 0.0), dropped=dropped, capped=capped)
