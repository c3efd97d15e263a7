"""What an update minimises: its value and statistics for a packed batch, and its gradient at single tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from aspo_megatron.config import LossConfig
from aspo_megatron.data.packing import PackedBatch
from aspo_megatron.losses import Loss, LossOutput, Stat, UpdateTokens, kl
from aspo_megatron.losses.base import selection_of
from aspo_megatron.losses.entropy import low_entropy_mask
from aspo_megatron.losses.largest_ratio import ratio_of
from aspo_megatron.losses.responses import shares
from aspo_megatron.losses.rollout_correction import OF_RESPONSES, correction_weights

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

    def per_token(self, batch: PackedBatch, log_probs: Tensor, entropy: Tensor) -> Tensor:
        """The loss at each token, [R], alone."""
        ...

    @property
    def selects(self) -> bool:
        """Whether it looks at all tokens of an update before it, by `select`."""
        ...

    def select(self, tokens: UpdateTokens) -> npt.NDArray[np.bool_]:
        """See `Loss.select`."""
        ...


@dataclass(frozen=True)
class _Terms:
    """The parts of a policy objective: `policy` is the loss's value times the `weights` of the rollout correction."""

    loss: LossOutput
    policy: Tensor
    weights: Tensor | None
    divergence: Stat | None


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
        """As the policy loss is, unless the KL's tokens or the correction's weights need whole responses."""
        of_responses = self._kl_of_low_entropy or self.config.rollout_correction in OF_RESPONSES
        return self.loss.token_wise and not of_responses

    @property
    def _kl_of_low_entropy(self) -> bool:
        return bool(self.config.kl_coef) and self.config.kl_tokens == "low-entropy"

    @property
    def selects(self) -> bool:
        """As the policy loss does."""
        return self.loss.selects

    def select(self, tokens: UpdateTokens) -> npt.NDArray[np.bool_]:
        """The loss's choice; on policy the old log-probs are those of the policy itself."""
        given = replace(tokens, old_log_probs=tokens.log_probs) if self.on_policy else tokens
        return selection_of(self.loss, given)

    def __call__(self, batch: PackedBatch, log_probs: Tensor, entropy: Tensor) -> LossOutput:
        """Loss at each token, [R], and what to log."""
        terms = self._terms(batch, log_probs, entropy)
        mask, old_log_probs = batch.mask, self._old_log_probs(batch, log_probs)
        difference = (log_probs - batch.rollout_log_probs).detach()
        stats = {
            **terms.loss.stats,
            "entropy": Stat(entropy, mask),
            "engine_log_prob_diff/mean": Stat(difference.abs(), mask),
            "engine_log_prob_diff/k3": Stat(kl.k3(difference), mask),
            **{
                f"engine_log_prob_diff/above_{bound:g}": Stat((difference.abs() > bound).float(), mask)
                for bound in _DIFFERENCES
            },
            "loss/policy": Stat(terms.policy, mask),
        }
        if terms.weights is not None:
            stats["rollout_correction/weight"] = Stat(terms.weights, mask)
        ratio, share = ratio_of((log_probs - old_log_probs).detach()), shares(mask, batch.cu_seqlens)
        stats["response_ratio/pos"] = Stat(ratio, share * (batch.advantages > 0))
        stats["response_ratio/neg"] = Stat(ratio, share * (batch.advantages < 0))
        if terms.divergence is not None:
            stats["kl_ref"] = terms.divergence
        per_token = self._sum(terms, entropy)
        return LossOutput(per_token, stats, peaks={"engine_log_prob_diff/max": stats["engine_log_prob_diff/mean"]})

    def per_token(self, batch: PackedBatch, log_probs: Tensor, entropy: Tensor) -> Tensor:
        """The loss at each token, [R], alone."""
        return self._sum(self._terms(batch, log_probs, entropy), entropy)

    def _old_log_probs(self, batch: PackedBatch, log_probs: Tensor) -> Tensor:
        return log_probs.detach() if self.on_policy else batch.old_log_probs

    def _terms(self, batch: PackedBatch, log_probs: Tensor, entropy: Tensor) -> _Terms:
        mask, old_log_probs = batch.mask, self._old_log_probs(batch, log_probs)
        loss = self.loss(
            log_probs,
            old_log_probs,
            batch.advantages,
            mask,
            entropy=entropy.detach(),
            cu_seqlens=batch.cu_seqlens,
            selected=batch.selected,
        )
        policy, weights, divergence = loss.per_token, None, None
        if self.config.rollout_correction != "none":
            weights = correction_weights(
                self.config.rollout_correction,
                (old_log_probs, batch.rollout_log_probs),
                mask,
                batch.cu_seqlens,
                (self.config.rollout_ratio_min, self.config.rollout_ratio_max),
            )
            policy = policy * weights
        if self.config.kl_coef:
            if self._kl_of_low_entropy:
                mask = low_entropy_mask(entropy, mask, batch.cu_seqlens, _LOW_ENTROPY_QUANTILE)
            divergence = Stat(kl.estimate_kl(self.config.kl_estimator, log_probs, batch.ref_log_probs, mask=mask), mask)
        return _Terms(loss, policy, weights, divergence)

    def _sum(self, terms: _Terms, entropy: Tensor) -> Tensor:
        per_token = terms.policy
        if terms.divergence is not None:
            per_token = per_token + self.config.kl_coef * terms.divergence.values
        if self.config.entropy_coef:
            per_token = per_token - self.config.entropy_coef * entropy
        return per_token


@dataclass(frozen=True)
class PlainObjective:
    """A function as an objective."""

    function: Callable[[PackedBatch, Tensor, Tensor], LossOutput]
    token_wise: bool
    selects: bool = False

    def select(self, tokens: UpdateTokens) -> npt.NDArray[np.bool_]:
        """None."""
        return np.zeros(len(tokens.log_probs), dtype=np.bool_)

    def __call__(self, batch: PackedBatch, log_probs: Tensor, entropy: Tensor) -> LossOutput:
        """See `Objective`."""
        return self.function(batch, log_probs, entropy)

    def per_token(self, batch: PackedBatch, log_probs: Tensor, entropy: Tensor) -> Tensor:
        """See `Objective`."""
        return self.function(batch, log_probs, entropy).per_token


def weighted_sum(output: LossOutput, batch: PackedBatch) -> Tensor:
    """What the batch adds to the update's loss. Through `where`, a token that does not count has no gradient."""
    return _weighted_sum(output.per_token, batch)


def _weighted_sum(per_token: Tensor, batch: PackedBatch) -> Tensor:
    return torch.where(batch.mask, per_token * batch.weights, 0.0).sum()


def gradient_at_tokens(
    objective: Objective, tokens: PackedBatch, log_probs: Tensor, entropy: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Of a token-wise objective, at each token: d loss / d log-prob, and d loss / d entropy or None if not used."""
    with torch.enable_grad():
        log_probs, entropy = (values.detach().requires_grad_() for values in (log_probs, entropy))
        loss = _weighted_sum(objective.per_token(tokens, log_probs, entropy), tokens)
        by_log_prob, by_entropy = torch.autograd.grad(loss, (log_probs, entropy), allow_unused=True)
    return torch.zeros_like(log_probs) if by_log_prob is None else by_log_prob, by_entropy
