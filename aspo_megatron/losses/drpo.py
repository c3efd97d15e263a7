"""DRPO, divergence-regularised policy optimization (arXiv 2606.09821)."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from aspo_megatron.losses.base import Loss, LossInput, LossOutput, OldPolicy, register
from aspo_megatron.losses.stats import ratio_stats
from aspo_megatron.losses.surrogate import ClipRange, RatioTokens, Weights, surrogate


@register
class Drpo(Loss):
    """The ratio less a square of how far the probability has moved, so that what has moved outward weighs less.

    What has moved the other way weighs more. At |pi - pi_old| = delta outward w is 0, beyond it turns round. With the
    paper's delta of 12.5 it differs from r by at most 8 %, as probabilities differ by at most 1. Not the decoupled
    rewards of the same name (arXiv 2510.04474).

    Settings of its source: the old policy is the one that sampled (`train.old_log_probs=rollout`);
    `advantage.scale=none`.

    Sources disagree: the equations themselves were not to be had; the code of UniRL and four reports agree on them. An
    early text of that code describes a hard mask.

    Denominator: that of the aggregation, over unmasked tokens. Bad tokens: one with r > e^20 has no gradient.
    """

    name: ClassVar[str] = "drpo"
    formula: ClassVar[str] = (
        "value: -(r A - |A| pi_old (r - 1)^2 / (2 delta))\nw = r (1 - sign(A) (pi - pi_old) / delta)"
    )
    source: ClassVar[str] = "arXiv 2606.09821v1, eq. 8 and 9, from the code of UniRL and reports"
    token_wise: ClassVar[bool] = True
    old_policy: ClassVar[OldPolicy] = "engine"

    delta: float = Field(12.5, gt=0.0, allow_inf_nan=False, description="Distance |pi - pi_old| at which w is 0.")

    def compute(self, inputs: LossInput) -> LossOutput:
        """See `Loss.compute`."""
        tokens = RatioTokens.of(inputs)
        moved = (inputs.log_probs.detach().exp() - inputs.old_log_probs.detach().exp()).masked_fill(~inputs.mask, 0.0)
        share = tokens.advantages.sign() * moved / self.delta
        value = tokens.ratio - 0.5 * share * (tokens.ratio - 1.0)
        gradient = (tokens.ratio * (1.0 - share)).masked_fill(tokens.beyond, 0.0)
        weights = Weights(value, gradient, dropped=gradient == 0.0, capped=torch.zeros_like(inputs.mask))
        everything = ClipRange.of_all(tokens.ratio)
        return LossOutput(surrogate(inputs.log_probs, tokens, weights), ratio_stats(tokens, everything, weights))
