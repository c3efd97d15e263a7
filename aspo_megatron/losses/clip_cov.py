"""Clip-Cov (arXiv 2505.22617v1): a few of the tokens that drive the entropy down are left out, by lot."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from aspo_megatron.losses.base import Loss, LossInput, LossOutput, UpdateTokens, register
from aspo_megatron.losses.covariance import count_of, covariances
from aspo_megatron.losses.ppo_clip import ppo_weights
from aspo_megatron.losses.stats import ratio_stats
from aspo_megatron.losses.surrogate import ClipRange, RatioTokens, surrogate


@register
class ClipCov(Loss):
    """A few of the tokens that drive the entropy down lose their gradient, by lot; the others are PPO's.

    c is taken over the whole update, of all replicas. Of the tokens with c from cov_low to cov_high that are not
    clipped, `share` of the update's tokens are drawn, evenly, and at least one. One that is drawn counts as one of
    loss 0.

    It needs the whole update: a pass over its tokens before it.

    Settings of its source: `loss.aggregation=token-mean` without a KL.

    Sources disagree: the formula has no clip range, its scripts have [0, 2] as here; in the formula a drawn token keeps
    its value and has no gradient, in the codes it has neither. The codes draw in each micro-batch.

    Denominator: that of the aggregation, over unmasked tokens; a token without gradient still counts in it.
    Bad tokens: a negative token with r > e^20 has the loss -A * e^20 and no gradient.
    """

    name: ClassVar[str] = "clip-cov"
    formula: ClassVar[str] = (
        "c = (log pi - mean log pi) * (A - mean A)\n"
        "w = 0  if the token is drawn, if A > 0 and r > 1 + eps_high, or A < 0 and r < 1 - eps_low\n"
        "w = r  for the others"
    )
    source: ClassVar[str] = "arXiv 2505.22617v1, eq. 10 to 12"
    token_wise: ClassVar[bool] = True
    selects: ClassVar[bool] = True

    share: float = Field(2e-4, ge=0.0, le=1.0, description="Share of the update's tokens that are left out (r).")
    cov_low: float = Field(1.0, allow_inf_nan=False, description="Least covariance of those drawn from (omega_low).")
    cov_high: float = Field(5.0, allow_inf_nan=False, description="Their largest covariance (omega_high).")
    eps_low: float = Field(1.0, ge=0.0, le=1.0, description="Negative tokens with r < 1 - eps_low get no gradient.")
    eps_high: float = Field(
        1.0, ge=0.0, allow_inf_nan=False, description="Positive tokens with r > 1 + eps_high get no gradient."
    )

    def select(self, tokens: UpdateTokens) -> npt.NDArray[np.bool_]:
        """The tokens that are left out."""
        covariance, ratios = covariances(tokens), RatioTokens.of_update(tokens)
        clipped = ClipRange.around_one(self.eps_low, self.eps_high, ratios.ratio).outside(ratios).numpy()
        (candidates,) = np.nonzero((covariance >= self.cov_low) & (covariance <= self.cov_high) & ~clipped)
        wanted = min(count_of(self.share, len(covariance)), len(candidates))
        left_out = np.zeros(len(covariance), dtype=np.bool_)
        left_out[np.random.default_rng(tokens.seed).choice(candidates, wanted, replace=False)] = True
        return left_out

    def compute(self, inputs: LossInput) -> LossOutput:
        """See `Loss.compute`."""
        tokens = RatioTokens.of(inputs)
        clip_range = ClipRange.around_one(self.eps_low, self.eps_high, inputs.log_probs)
        weights = ppo_weights(tokens, clip_range, None)
        weights = replace(
            weights,
            value=weights.value.masked_fill(inputs.selected, 0.0),
            gradient=weights.gradient.masked_fill(inputs.selected, 0.0),
            dropped=weights.dropped | inputs.selected,
        )
        return LossOutput(surrogate(inputs.log_probs, tokens, weights), ratio_stats(tokens, clip_range, weights))
