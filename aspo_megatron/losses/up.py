"""UP, unbounded positive asymmetric optimization (arXiv 2607.06987): good tokens are anchored at themselves."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from pydantic import Field

from aspo_megatron.losses.base import Loss, LossInput, LossOutput, register
from aspo_megatron.losses.ppo_clip import ppo_weights
from aspo_megatron.losses.stats import ratio_stats
from aspo_megatron.losses.surrogate import ClipRange, RatioTokens, surrogate


@register
class Up(Loss):
    """Positive tokens have weight 1, whatever their ratio, and are never clipped; negative ones are those of `grpo`.

    For A > 0 the surrogate is A * pi / sg(pi), anchored at the policy itself: its value is A. For A < 0 it is PPO's, of
    which the lower bound alone can act. ASPO pushes an unlikely positive token by 1 / r, GRPO by r, this by 1.

    Settings of its source: `loss.aggregation=token-mean` without a KL (its variant of DAPO), or seq-mean-token-mean
    with one (of GRPO).

    Sources disagree: the paper's own text was not to be had; the author's pull request to verl (#7022), one to TRL
    (#6579) and reports agree on this. The one to verl also has a dual clip for negative tokens.

    Denominator: that of the aggregation, over unmasked tokens; a token without gradient still counts in it.
    Bad tokens: a negative token with r > e^20 has the loss -A * e^20 and no gradient.
    """

    name: ClassVar[str] = "up"
    formula: ClassVar[str] = (
        "w = 1  if A > 0\nw = 0  if A < 0 and r < 1 - eps_low\nw = r  for the other tokens with A < 0"
    )
    source: ClassVar[str] = "arXiv 2607.06987v1, eq. 12 to 15, from the author's code and reports"
    token_wise: ClassVar[bool] = True

    eps_low: float = Field(0.2, ge=0.0, le=1.0, description="Negative tokens with r < 1 - eps_low get no gradient.")

    def compute(self, inputs: LossInput) -> LossOutput:
        """See `Loss.compute`."""
        tokens = RatioTokens.of(inputs)
        clip_range = ClipRange.around_one(self.eps_low, torch.inf, inputs.log_probs)
        weights = ppo_weights(tokens, clip_range, None)
        positive = tokens.advantages > 0
        anchored = torch.ones_like(tokens.ratio) + 0.0 * tokens.ratio  # a NaN must stay one
        weights = replace(
            weights,
            value=torch.where(positive, anchored, weights.value),
            gradient=torch.where(positive, anchored, weights.gradient),
            dropped=weights.dropped & ~positive,
        )
        return LossOutput(surrogate(inputs.log_probs, tokens, weights), ratio_stats(tokens, clip_range, weights))
