"""DPPO, divergence proximal policy optimization (arXiv 2602.04879v3): trusted by probability, not ratio."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from aspo_megatron.losses.base import Loss, LossInput, LossOutput, register
from aspo_megatron.losses.binary import binary_kl, binary_tv
from aspo_megatron.losses.stats import ratio_stats
from aspo_megatron.losses.surrogate import ClipRange, RatioTokens, Weights, outward, surrogate


class Dppo(Loss):
    """A token that moves outward and has come further than `delta` from the behaviour policy is dropped (eq. 12).

    Outward is r > 1 for A > 0 and r < 1 for A < 0. The gradient is -A * w * grad log pi with w = min(r, ratio_max), 0
    at a dropped token; the value is -A * w. With p_old and p the probabilities of the token itself, everything else
    being one other outcome, the distance is that of two coins.
    """

    token_wise: ClassVar[bool] = True

    ratio_max: float | None = Field(
        5.0, gt=1.0, allow_inf_nan=False, description="Cap C of the gradient weight, for both signs; null for no cap."
    )

    @abstractmethod
    def divergence(self, old_log_probs: Tensor, log_probs: Tensor) -> tuple[Tensor, float]:
        """How far the policy is from the behaviour policy at each token, [tokens], and the furthest that is trusted."""

    def compute(self, inputs: LossInput) -> LossOutput:
        """See `Loss.compute`."""
        tokens = RatioTokens.of(inputs)
        distance, trusted = self.divergence(inputs.old_log_probs.detach(), inputs.log_probs.detach())
        dropped = outward(tokens) & (distance > trusted)
        weight = tokens.ratio if self.ratio_max is None else tokens.ratio.clamp(max=self.ratio_max)
        capped = ~dropped & (tokens.ratio > weight)
        weight = weight.masked_fill(dropped, 0.0)
        everything = ClipRange.of_all(tokens.ratio)
        weights = Weights(value=weight, gradient=weight, dropped=dropped, capped=capped)
        return LossOutput(surrogate(inputs.log_probs, tokens, weights), ratio_stats(tokens, everything, weights))


@register
class DppoTv(Dppo):
    """DPPO with the total variation of two coins, |pi - pi_old| (eq. 13).

    The old policy is the one that sampled: the paper takes the engine's log-probs (`train.old_log_probs=rollout`) and
    finds that recomputed ones fail. It has advantages without a standard deviation (`advantage.scale=none`), and the
    cap C = 5 in its scaling runs (appendix E), none in its test of stability (appendix C). The authors' code and TRL
    cap at 10; verl at `clip_ratio_c`, 3 by default; SkyRL and prime-rl do not.

    Denominator: that of the aggregation, over unmasked tokens; a dropped token still counts in it.
    Bad tokens: without a cap, a negative token with r > e^20 has the weight e^20.
    """

    name: ClassVar[str] = "dppo-tv"

    delta: float = Field(0.2, gt=0.0, le=1.0, description="Outward tokens with |pi - pi_old| above it get no gradient.")

    def divergence(self, old_log_probs: Tensor, log_probs: Tensor) -> tuple[Tensor, float]:
        """|pi - pi_old| of the token."""
        return binary_tv(old_log_probs, log_probs), self.delta


@register
class DppoKl(Dppo):
    """DPPO with the KL of two coins, in nats, from the old policy's to the present one's (eq. 14).

    As `dppo-tv`. The paper's delta is 0.05; verl and SkyRL take 0.2 unless told otherwise.

    Denominator: that of the aggregation, over unmasked tokens; a dropped token still counts in it.
    Bad tokens: without a cap, a negative token with r > e^20 has the weight e^20.
    """

    name: ClassVar[str] = "dppo-kl"

    delta: float = Field(0.05, gt=0.0, allow_inf_nan=False, description="Outward tokens with a KL above it get none.")

    def divergence(self, old_log_probs: Tensor, log_probs: Tensor) -> tuple[Tensor, float]:
        """pi_old log(pi_old / pi) + (1 - pi_old) log((1 - pi_old) / (1 - pi)) of the token."""
        return binary_kl(old_log_probs, log_probs), self.delta
