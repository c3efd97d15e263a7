"""VESPO, variational sequence-level soft policy optimization (arXiv 2602.10693v3)."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field

from aspo_megatron.losses.base import Loss, LossInput, LossOutput, register
from aspo_megatron.losses.responses import response_sum
from aspo_megatron.losses.stats import ratio_stats
from aspo_megatron.losses.surrogate import ClipRange, RatioTokens, Weights, surrogate


@register
class Vespo(Loss):
    """Every token has the weight W ^ power * exp(decay * (1 - W)), W the ratio of its whole response (eq. 20).

    W is the product over the response's unmasked tokens, without a root: 1 at W = 1, largest at power / decay, fading
    on both sides. Its variance is finite from power = 1 on. The gradient is -A * w * grad log pi, and the value -A * w.

    The old policy of the paper is the one that sampled (`train.old_log_probs=rollout`), its advantages are without a
    standard deviation (`advantage.scale=none`), its aggregation is seq-mean-token-sum; the authors' code and TRL have
    token-mean. `power` and `decay` are lambda and k there (TRL: `vespo_k_*`, `vespo_lambda_*`).

    It is not token-wise: W needs the whole response, so the tensors must hold whole responses.

    Denominator: that of the aggregation, over unmasked tokens. Bad tokens: one lets its whole response fade.
    """

    name: ClassVar[str] = "vespo"
    token_wise: ClassVar[bool] = False

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
        own = RatioTokens.of(inputs)
        log_ratio = response_sum(own.log_ratio, inputs.mask, inputs.cu_seqlens).masked_fill(~inputs.mask, 0.0)
        tokens = RatioTokens.at(log_ratio, own.advantages, inputs.mask)
        positive = tokens.advantages > 0
        power = torch.where(positive, self.power_positive, self.power_negative).to(log_ratio.dtype)
        decay = torch.where(positive, self.decay_positive, self.decay_negative).to(log_ratio.dtype)
        weight = (power * tokens.log_ratio + decay * (1.0 - tokens.ratio)).exp()
        weights = Weights(weight, weight, dropped=weight == 0.0, capped=torch.zeros_like(positive))
        everything = ClipRange.of_all(tokens.ratio)
        return LossOutput(surrogate(inputs.log_probs, tokens, weights), ratio_stats(tokens, everything, weights))
