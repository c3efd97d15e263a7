"""SAPO, soft adaptive policy optimization (arXiv 2511.20347): a smooth gate in place of the clip."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from aspo_megatron.losses.base import Loss, LossInput, LossOutput, register
from aspo_megatron.losses.stats import ratio_stats
from aspo_megatron.losses.surrogate import ClipRange, RatioTokens, Weights, surrogate


@register
class Sapo(Loss):
    """A smooth gate in place of the clip: the weight fades on both sides of r = 1.

    Negative tokens fade sooner (tau_negative above tau_positive), since their gradient spreads over the whole
    vocabulary.

    Denominator: that of the aggregation, over unmasked tokens. Bad tokens: far from r = 1 w is 0.
    """

    name: ClassVar[str] = "sapo"
    formula: ClassVar[str] = (
        "value: -(4 / tau) sigmoid(tau (r - 1)) A, with tau_positive or tau_negative by the sign of A\n"
        "w = 4 p (1 - p) r  with p = sigmoid(tau (r - 1))"
    )
    source: ClassVar[str] = "arXiv 2511.20347"
    token_wise: ClassVar[bool] = True

    tau_positive: float = Field(1.0, gt=0.0, allow_inf_nan=False, description="Steepness of the gate for A > 0.")
    tau_negative: float = Field(1.05, gt=0.0, allow_inf_nan=False, description="Steepness of the gate for A < 0.")

    def compute(self, inputs: LossInput) -> LossOutput:
        """See `Loss.compute`."""
        tokens = RatioTokens.of(inputs)
        ratio = tokens.ratio
        positive, negative = ratio.new_full((), self.tau_positive), ratio.new_full((), self.tau_negative)
        tau = torch.where(tokens.advantages > 0, positive, negative)
        logit = tau * (ratio - 1.0)
        gate = torch.sigmoid(logit)
        weight = 4.0 * gate * torch.sigmoid(-logit) * ratio  # sigmoid(-x) for 1 - sigmoid(x) keeps its digits
        nowhere = torch.zeros_like(tokens.mask)
        weights = Weights(value=gate * 4.0 / tau, gradient=weight, dropped=nowhere, capped=nowhere)
        everything = ClipRange.of_all(ratio)
        return LossOutput(surrogate(inputs.log_probs, tokens, weights), ratio_stats(tokens, everything, weights))
