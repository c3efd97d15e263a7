"""VESPO, variational sequence-level soft policy optimization (arXiv 2602.10693v3)."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from aspo_megatron.losses.base import Loss, LossInput, LossOutput, OldPolicy, register
from aspo_megatron.losses.largest_ratio import ratio_of
from aspo_megatron.losses.responses import response_sum
from aspo_megatron.losses.stats import ratio_stats
from aspo_megatron.losses.surrogate import ClipRange, RatioTokens, Weights, surrogate


@register
class Vespo(Loss):
    """A smooth weight by the ratio of the whole response: it fades as that gets large, and as it gets small.

    W counts the response's unmasked tokens, without a root. The weight is 1 at W = 1 and largest at power / decay. Its
    variance is finite from power = 1 on. The value is -A * w.

    It is not token-wise: W needs the whole response, so the tensors must hold whole responses.

    Settings of its source: the old policy is the one that sampled (`train.old_log_probs=rollout`);
    `advantage.scale=none`, `loss.aggregation=seq-mean-token-sum`.

    Sources disagree: the authors' code and TRL have token-mean, so that long responses count more. `power` and `decay`
    are k and lambda in TRL (`vespo_k_*`, `vespo_lambda_*`).

    Denominator: that of the aggregation, over unmasked tokens.
    Bad tokens: one lets its whole response fade; without a decay it weighs at most e^20.
    """

    name: ClassVar[str] = "vespo"
    formula: ClassVar[str] = (
        "W = pi(y) / pi_old(y), the product of r over the response\n"
        "w = W ^ power * exp(decay * (1 - W)), with those for the sign of A"
    )
    source: ClassVar[str] = "arXiv 2602.10693v3, eq. 20"
    token_wise: ClassVar[bool] = False
    old_policy: ClassVar[OldPolicy] = "engine"

    power_positive: float = Field(2.0, ge=0.0, allow_inf_nan=False, description="Power of W for A > 0 (c_1).")
    decay_positive: float = Field(
        3.0, ge=0.0, allow_inf_nan=False, description="How fast w fades in W for A > 0 (c_2)."
    )
    power_negative: float = Field(3.0, ge=0.0, allow_inf_nan=False, description="Power of W for A < 0 (c_1).")
    decay_negative: float = Field(
        2.0, ge=0.0, allow_inf_nan=False, description="How fast w fades in W for A < 0 (c_2)."
    )

    def compute(self, inputs: LossInput) -> LossOutput:
        """See `Loss.compute`."""
        tokens = RatioTokens.of_responses(inputs, response_sum)
        positive = tokens.advantages > 0
        power = torch.where(positive, self.power_positive, self.power_negative).to(tokens.ratio.dtype)
        decay = torch.where(positive, self.decay_positive, self.decay_negative).to(tokens.ratio.dtype)
        weight = ratio_of(power * tokens.log_ratio + decay * (1.0 - tokens.ratio))
        weights = Weights(weight, weight, dropped=weight == 0.0, capped=torch.zeros_like(positive))
        everything = ClipRange.of_all(tokens.ratio)
        return LossOutput(surrogate(inputs.log_probs, tokens, weights), ratio_stats(tokens, everything, weights))
