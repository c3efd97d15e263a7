"""DPPO, divergence proximal policy optimization (arXiv 2602.04879v3): trusted by probability, not ratio."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from aspo_megatron.losses.base import Loss, LossInput, LossOutput, OldPolicy, register
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
    old_policy: ClassVar[OldPolicy] = "engine"

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
    """DPPO with the total variation of two coins: the token, or another.

    Outward is r > 1 for A > 0 and r < 1 for A < 0. The value is -A * w.

    Settings of its source: the old policy is the one that sampled (`train.old_log_probs=rollout`), as recomputed
    log-probs fail in its runs; `advantage.scale=none`.

    Sources disagree: the paper's scaling runs have the cap C = 5 (appendix E), its test of stability none (appendix C).
    The authors' code and TRL cap at 10; verl at `clip_ratio_c`, 3 by default; SkyRL and prime-rl do not.

    Denominator: that of the aggregation, over unmasked tokens; a dropped token still counts in it.
    Bad tokens: without a cap, a negative token with r > e^20 has the weight e^20.
    """

    name: ClassVar[str] = "dppo-tv"
    formula: ClassVar[str] = (
        "w = 0  if the token moves outward and |pi - pi_old| > delta\nw = min(r, ratio_max)  for the other tokens"
    )
    source: ClassVar[str] = "arXiv 2602.04879v3, eq. 12, 13 and 23"

    delta: float = Field(0.2, gt=0.0, le=1.0, description="Outward tokens with |pi - pi_old| above it get no gradient.")

    def divergence(self, old_log_probs: Tensor, log_probs: Tensor) -> tuple[Tensor, float]:
        """|pi - pi_old| of the token."""
        return binary_tv(old_log_probs, log_probs), self.delta


@register
class DppoKl(Dppo):
    """DPPO with the KL of two coins, the token or another, in nats, from the old policy's to the present one's.

    Settings of its source: `train.old_log_probs=rollout` and `advantage.scale=none`, as of `dppo-tv`.

    Sources disagree: the paper's delta is 0.05; verl and SkyRL take 0.2 unless told otherwise. Caps: as `dppo-tv`.

    Denominator: that of the aggregation, over unmasked tokens; a dropped token still counts in it.
    Bad tokens: without a cap, a negative token with r > e^20 has the weight e^20.
    """

    name: ClassVar[str] = "dppo-kl"
    formula: ClassVar[str] = (
        "KL = pi_old log(pi_old / pi) + (1 - pi_old) log((1 - pi_old) / (1 - pi))\n"
        "w = 0  if the token moves outward (r > 1 for A > 0, r < 1 for A < 0) and KL > delta\n"
        "w = min(r, ratio_max)  for the other tokens"
    )
    source: ClassVar[str] = "arXiv 2602.04879v3, eq. 12, 14 and 23"

    delta: float = Field(0.05, gt=0.0, allow_inf_nan=False, description="Outward tokens with a KL above it get none.")

    def divergence(self, old_log_probs: Tensor, log_probs: Tensor) -> tuple[Tensor, float]:
        """pi_old log(pi_old / pi) + (1 - pi_old) log((1 - pi_old) / (1 - pi)) of the token."""
        return binary_kl(old_log_probs, log_probs), self.delta
