"""M2PO, second-moment trust policy optimization (arXiv 2510.01161v2): only the largest outward ratios are dropped."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from aspo_megatron.losses.base import Loss, LossInput, LossOutput, OldPolicy, UpdateTokens, register
from aspo_megatron.losses.stats import ratio_stats
from aspo_megatron.losses.surrogate import ClipRange, RatioTokens, Weights, outward, surrogate


@register
class M2po(Loss):
    """Outward tokens lose their gradient, the largest ratios first, until the rest's second moment is in the budget.

    Outward is r > 1 for A > 0 and r < 1 for A < 0. Their (log r)^2 are taken of the whole update, of all replicas, and
    the largest is dropped until the mean of the rest is at most `budget`. The value is -A * w.

    It needs the whole update: a pass over its tokens before it.

    Settings of its source: the old policy is the one that sampled (`train.old_log_probs=rollout`), however long ago;
    `loss.aggregation=token-mean`.

    Sources disagree: the authors' code clips at bounds of r for which the clipped second moment is the budget, and
    chooses in each micro-batch; AReaL chooses among all tokens there, by the proximal policy; Trinity-RFT does as here.

    Denominator: that of the aggregation, over unmasked tokens; a dropped token still counts in it.
    Bad tokens: outward ones are the first to be dropped; a negative one with r > e^20 has the loss -A * e^20 and no
    gradient.
    """

    name: ClassVar[str] = "m2po"
    formula: ClassVar[str] = "w = 0  if the update's choice drops the token\nw = r  for the others"
    source: ClassVar[str] = "arXiv 2510.01161v2, algorithm 1 and eq. 5"
    token_wise: ClassVar[bool] = True
    old_policy: ClassVar[OldPolicy] = "engine"
    selects: ClassVar[bool] = True

    budget: float = Field(0.04, ge=0.0, allow_inf_nan=False, description="Mean (log r)^2 of outward tokens (tau).")

    def select(self, tokens: UpdateTokens) -> npt.NDArray[np.bool_]:
        """The outward tokens that are dropped."""
        ratios = RatioTokens.of_update(tokens)
        log_ratio = ratios.log_ratio.numpy()
        (candidates,) = np.nonzero(outward(ratios).numpy())
        moments = log_ratio[candidates] ** 2
        order = np.argsort(moments, kind="stable")
        means = np.cumsum(moments[order]) / np.arange(1, len(order) + 1)  # never falls
        dropped = np.zeros(len(log_ratio), dtype=np.bool_)
        dropped[candidates[order[np.searchsorted(means, self.budget, side="right") :]]] = True
        return dropped

    def compute(self, inputs: LossInput) -> LossOutput:
        """See `Loss.compute`."""
        tokens = RatioTokens.of(inputs)
        dropped = inputs.selected | (tokens.beyond & (tokens.advantages < 0))
        value = tokens.ratio.masked_fill(inputs.selected, 0.0)
        weights = Weights(value, value.masked_fill(dropped, 0.0), dropped, capped=torch.zeros_like(dropped))
        everything = ClipRange.of_all(tokens.ratio)
        return LossOutput(surrogate(inputs.log_probs, tokens, weights), ratio_stats(tokens, everything, weights))
