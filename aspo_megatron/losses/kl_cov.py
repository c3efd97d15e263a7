"""KL-Cov (arXiv 2505.22617v1): the tokens that drive the entropy down most are held near the old policy."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from aspo_megatron.losses.base import Loss, LossInput, LossOutput, UpdateTokens, register
from aspo_megatron.losses.covariance import count_of, covariances
from aspo_megatron.losses.stats import ratio_stats
from aspo_megatron.losses.surrogate import ClipRange, RatioTokens, Weights, surrogate


@register
class KlCov(Loss):
    """The tokens that drive the entropy down most are held near the old policy; there is no clip.

    c is taken over the whole update, of all replicas; `share` of its tokens, those with the largest c and at least one,
    are held. The gradient of what is added there is beta * sign(log r), 0 at r = 1; figures of weights leave it out. An
    update whose advantages are all 0 is skipped for all that.

    It needs the whole update: a pass over its tokens before it.

    Settings of its source: `loss.aggregation=token-mean` without another KL; share 2e-3 for a model of 7B, 2e-4 for one
    of 32B.

    Sources disagree: the share is in percent in the authors' code, a fraction in verl (0.0002) and one of 0.2 in SkyRL;
    verl's beta is 0.1 by default. The codes choose in each micro-batch.

    Denominator: that of the aggregation, over unmasked tokens.
    Bad tokens: a negative token with r > e^20 has the loss -A * e^20 and no gradient but that of |log r|.
    """

    name: ClassVar[str] = "kl-cov"
    formula: ClassVar[str] = (
        "c = (log pi - mean log pi) * (A - mean A)\n"
        "w = r, and beta * abs(log r) is added to the loss  if c is among the largest"
    )
    source: ClassVar[str] = "arXiv 2505.22617v1, eq. 10, 13, 14 and listing 1"
    token_wise: ClassVar[bool] = True
    selects: ClassVar[bool] = True

    share: float = Field(2e-3, ge=0.0, le=1.0, description="Share of the update's tokens that are held (k).")
    beta: float = Field(1.0, ge=0.0, allow_inf_nan=False, description="Weight of |log r| at these (beta).")

    def select(self, tokens: UpdateTokens) -> npt.NDArray[np.bool_]:
        """The tokens that are held."""
        covariance = covariances(tokens)
        held = np.zeros(len(covariance), dtype=np.bool_)
        held[np.argsort(-covariance, kind="stable")[: count_of(self.share, len(covariance))]] = True
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
