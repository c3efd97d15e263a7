"""GSPO, group sequence policy optimization (arXiv 2507.18071): one ratio for a whole response."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from aspo_megatron.losses.base import Loss, LossInput, LossOutput, register
from aspo_megatron.losses.ppo_clip import ppo_weights
from aspo_megatron.losses.responses import response_mean
from aspo_megatron.losses.stats import ratio_stats
from aspo_megatron.losses.surrogate import ClipRange, RatioTokens, surrogate


@register
class Gspo(Loss):
    """PPO-clip on one ratio for the whole response, the geometric mean over its tokens.

    Every token has the loss -min(s A, clip(s, 1 - eps_low, 1 + eps_high) A). |y| counts unmasked tokens. The clip range
    is much narrower than that of token ratios.

    It is not token-wise: the ratio needs the whole response, so the tensors must hold whole responses.

    Settings of its source: `loss.aggregation=seq-mean-token-mean`, with which this is the paper's objective exactly,
    since grad s = s / |y| * sum of grad log pi.

    Denominator: that of the aggregation, over unmasked tokens; a clipped response still counts in it.
    Bad tokens: one pulls its whole response with it; a negative response with s > e^20 has the loss -A * e^20 and no
    gradient.
    """

    name: ClassVar[str] = "gspo"
    formula: ClassVar[str] = (
        "s = (pi(y) / pi_old(y)) ^ (1 / |y|)\n"
        "w = 0  if A > 0 and s > 1 + eps_high, or A < 0 and s < 1 - eps_low\n"
        "w = s  for the other responses"
    )
    source: ClassVar[str] = "arXiv 2507.18071"
    token_wise: ClassVar[bool] = False

    eps_low: float = Field(3e-4, ge=0.0, le=1.0, description="Negative responses with s < 1 - eps_low get no gradient.")
    eps_high: float = Field(
        4e-4, ge=0.0, allow_inf_nan=False, description="Positive responses with s > 1 + eps_high get no gradient."
    )

    def compute(self, inputs: LossInput) -> LossOutput:
        """See `Loss.compute`."""
        tokens = RatioTokens.of_responses(inputs, response_mean)
        clip_range = ClipRange.around_one(self.eps_low, self.eps_high, inputs.log_probs)
        weights = ppo_weights(tokens, clip_range, None)
        return LossOutput(surrogate(inputs.log_probs, tokens, weights), ratio_stats(tokens, clip_range, weights))
