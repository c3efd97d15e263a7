"""TOPR, tapered off-policy REINFORCE (arXiv 2503.14286v2)."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from aspo_megatron.losses.base import Loss, LossInput, LossOutput, OldPolicy, register
from aspo_megatron.losses.responses import response_sum
from aspo_megatron.losses.stats import ratio_stats
from aspo_megatron.losses.surrogate import ClipRange, RatioTokens, Weights, surrogate


@register
class Topr(Loss):
    """Good responses have weight 1; bad ones the ratio of the whole response, at most `negative_max`.

    So a bad response fades as it gets unlikely, and is never pushed harder than it was sampled. W counts the response's
    unmasked tokens. The value is -A * w. Good and bad are told by the sign of the advantage.

    It is not token-wise: W needs the whole response, so the tensors must hold whole responses.

    Settings of its source: the old policy is the one that sampled (`train.old_log_probs=rollout`);
    `loss.aggregation=seq-mean-token-mean`; the sign is that of the reward, of 1 and -1 without a baseline.

    Sources disagree: ROLL and Trinity have ratios of tokens in place of W, a pull request to verl their geometric mean.
    The paper's equations themselves were not to be had; three reports of them agree.

    Denominator: that of the aggregation, over unmasked tokens. Bad tokens: the cap acts long before e^20.
    """

    name: ClassVar[str] = "topr"
    formula: ClassVar[str] = (
        "W = pi(y) / pi_old(y), the product of r over the response\nw = 1  if A > 0\nw = min(W, negative_max)  if A < 0"
    )
    source: ClassVar[str] = "arXiv 2503.14286v2, eq. 8, from reports"
    token_wise: ClassVar[bool] = False
    old_policy: ClassVar[OldPolicy] = "engine"

    negative_max: float = Field(1.0, gt=0.0, allow_inf_nan=False, description="Bad responses weigh at most this.")

    def compute(self, inputs: LossInput) -> LossOutput:
        """See `Loss.compute`."""
        tokens = RatioTokens.of_responses(inputs, response_sum)
        negative = tokens.advantages < 0
        of_ratio = tokens.ratio.clamp(max=self.negative_max)
        weight = torch.where(negative, of_ratio, tokens.ratio.clamp(1.0, 1.0))  # not ones: a NaN must stay one
        weights = Weights(weight, weight, dropped=weight == 0.0, capped=negative & (tokens.ratio > of_ratio))
        everything = ClipRange.of_all(tokens.ratio)
        return LossOutput(surrogate(inputs.log_probs, tokens, weights), ratio_stats(tokens, everything, weights))
