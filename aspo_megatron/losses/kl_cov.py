"""KL-Cov (arXiv 2505.22617v1): the tokens that drive the entropy down most are held near the old policy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from aspo_megatron.losses.base import Loss, LossInput, LossOutput, UpdateTokens, register
from aspo_megatron.losses.covariance import covariances
from aspo_megatron.losses.stats import ratio_stats
from aspo_megatron.losses.surrogate import ClipRange, RatioTokens, Weights, surrogate


@register
class KlCov(Loss):
    """The `share` of tokens with the largest covariance also have the loss beta * |log r| (eq. 13, 14, listing 1).

    The covariance is that of eq. 10, over the whole update, of all replicas; at least one token is held if any. The
    policy loss is -r A at every token, without a clip: the gradient is -A * r * grad log pi, and at the tokens held
    beta * sign(log r) * grad log pi besides, which is 0 at r = 1.

    `share` is the paper's for 7B; for 32B it is 2e-4. In its code it is in percent, in verl a fraction (0.0002), in
    SkyRL a fraction of 0.2; verl's configuration has a beta of 0.1. Codes choose in each micro-batch.

    It needs the whole update: a pass over its tokens before it. Figures of weights have no part of |log r|.

    Denominator: that of the aggregation, over unmasked tokens.
    Bad tokens: a negative token with r > e^20 has the loss -A * e^20 and no gradient but that of |log r|.
    """

    name: ClassVar[str] = "kl-cov"
    token_wise: ClassVar[bool] = True
    selects: ClassVar[bool] = True

    share: float = Field(2e-3, ge=0.0, le=1.0, description="Share of the update's tokens that are held (k).")
    beta: float = Field(1.0, ge=0.0, allow_inf_nan=False, description="Weight of |log r| at these (beta).")

    def select(self, tokens: UpdateTokens) -> npt.NDArray[np.bool_]:
        """The tokens that are held."""
        covariance = covariances(tokens)
        wanted = min(max(1, int(self.share * len(covariance))), len(covariance)) if self.share else 0
        held = np.zeros(len(covariance), dtype=np.bool_)
        held[np.argsort(-covariance, kind="stable")[:wanted]] = True
        return held

    def compute(self, inputs: LossInput) -> LossOutput:
        """See `Loss.compute`."""
        tokens = RatioTokens.of(inputs)
        lost = tokens.beyond & (tokens.advantages < 0)
        gradient = tokens.ratio.masked_fill(lost, 0.0)
        weights = Weights(tokens.ratio, gradient, dropped=lost, capped=torch.zeros_like(lost))
        held = inputs.selected & inputs.mask
        difference = (inputs.log_probs - inputs.old_log_probs.detach()).masked_fill(~held, 0.0)
        everything = ClipRange.of_all(tokens.ratio)
        return LossOutput(
            surrogate(inputs.log_probs, tokens, weights) + self.beta * difference.abs(),
            ratio_stats(tokens, everything, weights),
        )
