"""CPPO, cumulative prefix-divergence policy optimization (arXiv 2606.10968v2): early tokens have to be nearer."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from aspo_megatron.losses.base import Loss, LossInput, LossOutput, OldPolicy, register
from aspo_megatron.losses.binary import binary_tv
from aspo_megatron.losses.responses import response_sum, sum_before
from aspo_megatron.losses.stats import ratio_stats
from aspo_megatron.losses.surrogate import ClipRange, RatioTokens, Weights, outward, surrogate


@register
class Cppo(Loss):
    """A token that moves outward is dropped once its response has drifted further than its budget.

    Outward is r > 1 for A > 0 and r < 1 for A < 0. The value is -A * w. Not the completion pruning of the same name
    (arXiv 2503.22342), which is no loss.

    It is not token-wise: the budget is the response's, so the tensors must hold whole responses; masked tokens are
    left out of its sums and its length.

    Settings of its source: the old policy is the one that sampled (`train.old_log_probs=rollout`); delta 0.15 for dense
    models, 0.2 for a mixture of experts.

    Sources disagree: the paper's runs measure D over the 20 most likely tokens, the codes that there are over "this
    token or another", as here; for base models the paper takes a quantile of D for the budget, its code always.

    Denominator: that of the aggregation, over unmasked tokens; a dropped token still counts in it.
    Bad tokens: a negative token with r > e^20 has the loss -A * e^20 and no gradient.
    """

    name: ClassVar[str] = "cppo"
    formula: ClassVar[str] = (
        "D = |pi - pi_old|\n"
        "v = 1 at a response's first token, falling evenly to last_weight at its last\n"
        "w = 0  if the token moves outward and\n"
        "       v D > min(delta, delta + budget * (sum of v before it) - (sum of v D before it))\n"
        "w = r  for the other tokens"
    )
    source: ClassVar[str] = "arXiv 2606.10968v2, eq. 8 to 11"
    token_wise: ClassVar[bool] = False
    old_policy: ClassVar[OldPolicy] = "engine"

    delta: float = Field(0.15, gt=0.0, le=1.0, description="An outward token further away than this gets no gradient.")
    budget: float = Field(
        0.015, ge=0.0, allow_inf_nan=False, description="Mean distance of the tokens before it that is free (delta_b)."
    )
    last_weight: float = Field(0.8, gt=0.0, le=1.0, description="Weight of a response's last token; the first has 1.")

    def compute(self, inputs: LossInput) -> LossOutput:
        """See `Loss.compute`."""
        tokens, mask, bounds = RatioTokens.of(inputs), inputs.mask, inputs.cu_seqlens
        distance = binary_tv(inputs.old_log_probs.detach(), inputs.log_probs.detach()).masked_fill(~mask, 0.0)
        ones = torch.ones_like(distance)
        length = response_sum(ones, mask, bounds)
        place = sum_before(ones, mask, bounds) / (length - 1.0).clamp(min=1.0)
        of_place = 1.0 - (1.0 - self.last_weight) * place
        drift = of_place * distance
        left = self.delta + self.budget * sum_before(of_place, mask, bounds) - sum_before(drift, mask, bounds)
        spent = outward(tokens) & (drift > left.clamp(max=self.delta))
        dropped, value = spent | tokens.beyond, tokens.ratio.masked_fill(spent, 0.0)
        weights = Weights(value, value.masked_fill(dropped, 0.0), dropped, torch.zeros_like(mask))
        everything = ClipRange.of_all(tokens.ratio)
        return LossOutput(surrogate(inputs.log_probs, tokens, weights), ratio_stats(tokens, everything, weights))
