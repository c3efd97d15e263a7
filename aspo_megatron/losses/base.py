"""What a loss takes and gives, and the registry of losses by name. Pure tensor code: no collectives here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, TypeVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor


@dataclass(frozen=True)
class Stat:
    """A per-token quantity and where it counts: its mean over a step is sum(values * where) / sum(where).

    `values` and `where` have the shape of the loss's inputs; `where` is a bool or a weight. Kept as two sums,
    the mean is exact over any number of micro-batches and ranks.
    """

    values: Tensor
    where: Tensor


@dataclass(frozen=True)
class LossInput:
    """The response tokens of whole responses, packed one after the other.

    A token-wise loss may be given only some of the tokens.
    """

    log_probs: Tensor
    """log pi(token), [tokens], fp32 or fp64, carries the gradient."""
    old_log_probs: Tensor
    """log pi_old(token), [tokens], the dtype of `log_probs`, no gradient."""
    advantages: Tensor
    """The response's advantage at each of its tokens, [tokens], the dtype of `log_probs`."""
    mask: Tensor
    """The response mask, [tokens], bool; False where a token does not count."""
    entropy: Tensor
    """Entropy of the current policy at each token in nats, [tokens], no gradient."""
    cu_seqlens: Tensor
    """[responses + 1], int: response i holds tokens cu_seqlens[i] to cu_seqlens[i+1]."""


@dataclass(frozen=True)
class LossOutput:
    """`per_token`: the loss at each token, [tokens], masked tokens included (the aggregation drops them).

    `stats`: quantities whose mean is logged, by name, e.g. `clip/pos_high`. `peaks`: those whose largest value is.
    """

    per_token: Tensor
    stats: Mapping[str, Stat] = field(default_factory=dict)
    peaks: Mapping[str, Stat] = field(default_factory=dict)


class Loss(BaseModel, ABC):
    """A policy loss: its fields are its hyperparameters, and `compute` is what it does."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ClassVar[str]
    """Of a registered loss: what `loss.name` calls it."""
    token_wise: ClassVar[bool] = False
    """The value at a token depends on that token alone, so its gradient is known chunk by chunk."""

    def __call__(
        self,
        log_probs: Tensor,
        old_log_probs: Tensor,
        advantages: Tensor,
        mask: Tensor,
        *,
        entropy: Tensor,
        cu_seqlens: Tensor,
    ) -> LossOutput:
        """`compute` for these tensors; `LossInput` says what each is."""
        return self.compute(LossInput(log_probs, old_log_probs, advantages, mask, entropy, cu_seqlens))

    @abstractmethod
    def compute(self, inputs: LossInput) -> LossOutput:
        """The loss at each response token."""


L = TypeVar("L", bound=Loss)
_LOSSES: dict[str, type[Loss]] = {}


def register(loss: type[L]) -> type[L]:
    """Class decorator: make a loss known under its `name`."""
    if loss.name in _LOSSES:
        raise ValueError(f"two losses are called {loss.name!r}")
    _LOSSES[loss.name] = loss
    return loss


def registered() -> Mapping[str, type[Loss]]:
    """Every registered loss by name, read-only. `aspo_megatron.losses.get` finds one with a helpful error."""
    return MappingProxyType(_LOSSES)
