"""What an update minimises: its value and statistics for a packed batch, and its gradient at single tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from aspo_megatron.config import LossConfig
from aspo_megatron.data.packing import PackedBatch
from aspo_megatron.losses import Loss, LossOutput, Stat, kl
from aspo_megatron.losses.correction import correction_weights
from aspo_megatron.losses.entropy import low_entropy_mask
from aspo_megatron.losses.responses import shares

_LOW_ENTROPY_QUANTILE = 0.8
_DIFFERENCES = (0.001, 0.01, 0.1, 1.0)
"""In nats: the share of tokens whose log-prob the engine gave with a larger error is logged."""


class Objective(Protocol):
    """A loss at each scored token of a batch. `token_wise`: it depends on that token's own values alone."""

    @property
    def token_wise(self) -> bool:
        """Whether its gradient may be taken for some tokens apart from the others."""
        ...

    def __call__(self, batch: PackedBatch, log_probs: Tensor, entropy: Tensor) -> LossOutput:
        """Loss at each token, [R], and what to log."""
        ...


@dataclass(frozen=True)
class PolicyObjective:
    """A policy loss, a KL to the reference and an entropy bonus.

    `on_policy`: no update has been made since the old policy, so the log-probs of the pass itself are the old ones, and
    those of the batch are not looked at.
    """

    loss: Loss
    config: LossConfig
    on_policy: bool = False

    @property
    def token_wise(self) -> bool:
        """As the policy loss is, unless the KL's tokens are chosen among those of a response."""
        return self.loss.token_wise and not self._kl_of_low_entropy

    @property
    def _kl_of_low_entropy(self) -> bool:
        return bool(self.config.kl_coef) and self.config.kl_tokens == "low-entropy"

    def __call__(self, batch: PackedBatch, log_probs: Tensor, entropy: Tensor) -> LossOutput:
        """Loss at each token, [R], and what to log."""
        old_log_probs = log_probs.detach() if self.on_policy else batch.old_log_probs
        output = self.loss(
            log_probs,
            old_log_probs,
            batch.advantages,
            batch.mask,
            entropy=entropy.detach(),
            cu_seqlens=batch.cu_seqlens,
        )
        difference = (log_probs - batch.rollout_log_probs).detach()
        stats = {
            **output.stats,
            "entropy": Stat(entropy, batch.mask),
            "engine_log_prob_diff/mean": Stat(difference.abs(), batch.mask),
            "engine_log_prob_diff/k3": Stat(kl.k3(difference), batch.mask),
            **{
                f"engine_log_prob_diff/above_{bound:g}": Stat((difference.abs() > bound).float(), batch.mask)
                for bound in _DIFFERENCES
            },
        }
        per_token = output.per_token
        if self.config.rollout_correction != "none":
            weights = correction_weights(
                self.config.rollout_correction,
                old_log_probs,
                batch.rollout_log_probs,
                self.config.rollout_ratio_min,
                self.config.rollout_ratio_max,
            )
            weights = torch.where(batch.mask, weights, 1.0)  # not finite, perhaps, where nothing counts
            per_token = per_token * weights
            stats["rollout_correction/weight"] = Stat(weights, batch.mask)
        stats["loss/policy"] = Stat(per_token, batch.mask)
        ratio, share = (log_probs - old_log_probs).detach().exp(), shares(batch.mask, batch.cu_seqlens)
        stats["response_ratio/pos"] = Stat(ratio, share * (batch.advantages > 0))
        stats["response_ratio/neg"] = Stat(ratio, share * (batch.advantages < 0))
        if self.config.kl_coef:
            mask = batch.mask
            if self._kl_of_low_entropy:
                mask = low_entropy_mask(entropy, mask, batch.cu_seqlens, _LOW_ENTROPY_QUANTILE)
            divergence = kl.estimate(self.config.kl_estimator, log_probs, batch.ref_log_probs, mask=mask)
            per_token = per_token + self.config.kl_coef * divergence
            stats["kl_ref"] = Stat(divergence, mask)
        if self.config.entropy_coef:
            per_token = per_token - self.config.entropy_coef * entropy
        return LossOutput(per_token, stats, peaks={"engine_log_prob_diff/max": stats["engine_log_prob_diff/mean"]})


@dataclass(frozen=True)
class PlainObjective:
    """A function as an objective."""

    function: Callable[[PackedBatch, Tensor, Tensor], LossOutput]
    token_wise: bool

    def __call__(self, batch: PackedBatch, log_probs: Tensor, entropy: Tensor) -> LossOutput:
        """See `Objective`."""
        return self.function(batch, log_probs, entropy)


def weighted_sum(output: LossOutput, batch: PackedBatch) -> Tensor:
    """What the batch adds to the update's loss. Through `where`, a token that does not count has no gradient."""
    return torch.where(batch.mask, output.per_token * batch.weights, 0.0).sum()


def gradient_at_tokens(
    objective: Objective, tokens: PackedBatch, log_probs: Tensor, entropy: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Of a token-wise objective, at each token: d loss / d log-prob, and d loss / d entropy or None if not used."""
    with torch.enable_grad():
        log_probs, entropy = (values.detach().requires_grad_() for values in (log_probs, entropy))
        loss = weighted_sum(objective(tokens, log_probs, entropy), tokens)
        by_log_prob, by_entropy = torch.autograd.grad(loss, (log_probs, entropy), allow_unused=True)
    return torch.zeros_like(log_probs) if by_log_prob is None else by_log_prob, by_entropy
