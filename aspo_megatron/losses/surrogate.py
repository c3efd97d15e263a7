"""What losses on the importance ratio have in common: the ratio, its clip range, and a loss with a chosen gradient."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from aspo_megatron.losses.base import LossInput, UpdateTokens
from aspo_megatron.losses.largest_ratio import MOST_NATS, ratio_of


@dataclass(frozen=True)
class RatioTokens:
    """The tokens as a ratio loss sees them, all [tokens], without gradient.

    A token out of `mask` has ratio 1 and advantage 0, so that nothing that stands there (a padding's infinite
    log-prob, say) can turn a sum into NaN. At the other tokens the ratio is bounded (`largest_ratio.py`); a NaN stays
    visible.
    """

    log_ratio: Tensor
    """log pi - log pi_old"""
    ratio: Tensor
    """r = pi / pi_old, or the bound where that is larger"""
    advantages: Tensor
    mask: Tensor

    @classmethod
    def of(cls, inputs: LossInput) -> RatioTokens:
        """From what a loss is given."""
        log_ratio = (inputs.log_probs.detach() - inputs.old_log_probs.detach()).masked_fill(~inputs.mask, 0.0)
        return cls.at(log_ratio, inputs.advantages.detach().masked_fill(~inputs.mask, 0.0), inputs.mask)

    @classmethod
    def of_responses(cls, inputs: LossInput, reduced: Callable[[Tensor, Tensor, Tensor], Tensor]) -> RatioTokens:
        """Each with its response's log-ratio: `response_mean` or `response_sum` of those of its unmasked tokens."""
        own = cls.of(inputs)
        log_ratio = reduced(own.log_ratio, inputs.mask, inputs.cu_seqlens).masked_fill(~inputs.mask, 0.0)
        return cls.at(log_ratio, own.advantages, inputs.mask)

    @classmethod
    def of_update(cls, tokens: UpdateTokens) -> RatioTokens:
        """Of what `Loss.select` is given; the mask is True."""
        log_ratio = torch.from_numpy(tokens.log_probs - tokens.old_log_probs)
        return cls.at(log_ratio, torch.from_numpy(tokens.advantages), torch.ones_like(log_ratio, dtype=torch.bool))

    @classmethod
    def at(cls, log_ratio: Tensor, advantages: Tensor, mask: Tensor) -> RatioTokens:
        """With a log-ratio of the caller's; it and the advantages are 0 out of the mask, and have no gradient."""
        return cls(log_ratio, ratio_of(log_ratio), advantages, mask)

    @property
    def beyond(self) -> Tensor:
        """Where the bound acts, bool [tokens]."""
        return self.log_ratio > MOST_NATS


@dataclass(frozen=True)
class ClipRange:
    """The range of ratios around 1 that is trusted: bounds of the ratio, each [] or [tokens]."""

    lower: Tensor
    upper: Tensor

    @classmethod
    def around_one(cls, eps_low: float, eps_high: float, like: Tensor) -> ClipRange:
        """[1 - eps_low, 1 + eps_high] for every token, in the dtype and on the device of `like`."""
        return cls(like.new_full((), 1.0 - eps_low), like.new_full((), 1.0 + eps_high))

    @classmethod
    def of_all(cls, like: Tensor) -> ClipRange:
        """Of a loss without a clip range: no ratio is outside."""
        return cls(like.new_full((), 0.0), like.new_full((), torch.inf))

    def outside(self, tokens: RatioTokens) -> Tensor:
        """Where the policy is already past the bound that the advantage pushes it to, bool [tokens].

        That is r > upper for A > 0 and r < lower for A < 0; a ratio exactly on the bound is inside.
        """
        past_upper = (tokens.advantages > 0) & (tokens.ratio > self.upper)
        past_lower = (tokens.advantages < 0) & (tokens.ratio < self.lower)
        return past_upper | past_lower

    def clip(self, tokens: RatioTokens) -> Tensor:
        """The ratio, stopped at the bound that the advantage pushes it to; 1 for A = 0."""
        positive = torch.minimum(tokens.ratio, self.upper)
        negative = torch.maximum(tokens.ratio, self.lower)
        neutral = tokens.ratio.clamp(1.0, 1.0)  # not ones: a NaN must stay one
        return torch.where(tokens.advantages > 0, positive, torch.where(tokens.advantages < 0, negative, neutral))


@dataclass(frozen=True)
class Weights:
    """What a loss makes of each token, all [tokens], without gradient.

    The loss is -A * value and its gradient -A * gradient * grad log pi.
    """

    value: Tensor
    gradient: Tensor
    dropped: Tensor
    """Bool: the clip range, the cap or the bound takes the gradient away."""
    capped: Tensor
    """Bool: inside the clip range, and the cap `dual_clip` acts."""


def outward(tokens: RatioTokens) -> Tensor:
    """Where the advantage pushes away from the old policy: r > 1 and A > 0, or r < 1 and A < 0; bool [tokens]."""
    return ((tokens.advantages > 0) & (tokens.ratio > 1.0)) | ((tokens.advantages < 0) & (tokens.ratio < 1.0))


def surrogate(log_probs: Tensor, tokens: RatioTokens, weights: Weights) -> Tensor:
    """-A * value, [tokens], with the gradient -A * weights.gradient with respect to `log_probs`.

    Value and gradient of a policy loss part wherever a stop-gradient or a clip acts. Both come out exactly, as
    no ratio is differentiated. Out of the mask both are exactly 0.
    """
    zero_with_gradient = (log_probs - log_probs.detach()).masked_fill(~tokens.mask, 0.0)
    return -tokens.advantages * (weights.value + weights.gradient * zero_with_gradient)
