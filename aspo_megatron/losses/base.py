"""What a loss takes and gives, and the registry of losses by name. Pure tensor code: no collectives here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import ClassVar, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line

OldPolicy = Literal["trainer", "engine"]
"""Whose log-probs a loss's source calls old: the trainer's for the weights that sampled, or the engine's own."""


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
    selected: Tensor
    """[tokens], bool: those that `Loss.select` chose of the whole update; none of a loss that chooses none."""


@dataclass(frozen=True)
class UpdateTokens:
    """The unmasked response tokens of a whole update, of all replicas, as the policy is before it.

    Each [tokens], fp64, in an order that neither the layout nor the micro-batches decide.
    """

    log_probs: npt.NDArray[np.float64]
    """log pi(token)"""
    old_log_probs: npt.NDArray[np.float64]
    """log pi_old(token)"""
    advantages: npt.NDArray[np.float64]
    """The response's advantage at each of its tokens."""
    seed: int
    """Of what a loss draws: another one in each update, the same in a run that is resumed."""


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
    formula: ClassVar[str] = ""
    """The weight w of the gradient -A * w * grad log pi, in the notation of docs/loss.md; a line a case."""
    source: ClassVar[str] = ""
    """The paper that it is from, with its equations."""
    token_wise: ClassVar[bool] = False
    """The value at a token depends on that token alone, so its gradient is known chunk by chunk.

    What was selected counts as the token's own.
    """
    old_policy: ClassVar[OldPolicy] = "trainer"
    """What its source is stated for."""
    selects: ClassVar[bool] = False
    """`select` is asked before each update, which takes a pass over its tokens."""

    def __call__(
        self,
        log_probs: Tensor,
        old_log_probs: Tensor,
        advantages: Tensor,
        mask: Tensor,
        *,
        entropy: Tensor,
        cu_seqlens: Tensor,
        selected: Tensor | None = None,
    ) -> LossOutput:
        """`compute` for these tensors; `LossInput` says what each is. None selects no token.

        Raises:
            ConfigError: what it gives is no loss at each token, see `check_output`.
        """
        selected = torch.zeros_like(mask) if selected is None else selected
        inputs = LossInput(log_probs, old_log_probs, advantages, mask, entropy, cu_seqlens, selected)
        output: object = self.compute(inputs)
        return check_output(self.called(), output, log_probs)

    @classmethod
    def called(cls) -> str:
        """What `loss.name` calls it: a registered name, or the import path of a user's own."""
        name = str(getattr(cls, "name", ""))
        return name if _LOSSES.get(name) is cls else f"{cls.__module__}:{cls.__qualname__}"

    def select(self, tokens: UpdateTokens) -> npt.NDArray[np.bool_]:
        """The tokens of an update that are treated in another way, [tokens]: what a loss needs all of them for."""
        return np.zeros(len(tokens.log_probs), dtype=np.bool_)

    @abstractmethod
    def compute(self, inputs: LossInput) -> LossOutput:
        """The loss at each response token."""


def selection_of(loss: Loss, tokens: UpdateTokens) -> npt.NDArray[np.bool_]:
    """What a loss chooses of an update, [tokens].

    Raises:
        ConfigError: it gives something else than True or False for each token.
    """
    found: object = loss.select(tokens)
    wanted = tokens.log_probs.shape
    if not isinstance(found, np.ndarray) or found.dtype != np.bool_ or found.shape != wanted:
        came = f"{found.dtype} {list(found.shape)}" if isinstance(found, np.ndarray) else type(found).__name__
        raise ConfigError(
            f"loss.name: {one_line(repr(loss.called()))}: select gives {one_line(came)}; it must give a numpy array of "
            f"bool, one for each of the {wanted[0]} tokens"
        )
    return found


def check_output(name: str, output: object, log_probs: Tensor) -> LossOutput:
    """What `compute` has given, if it is a loss at each token, and figures of each. Looks at no value.

    Args:
        name: what `loss.name` calls the loss.
        output: what its `compute` gave.
        log_probs: what it was given, [tokens].

    Raises:
        ConfigError: it is something else, such as a mean; says what was expected, what came, and what to do.
    """
    where = f"loss.name: {one_line(repr(name))}"
    if not isinstance(output, LossOutput):
        hint = ": return LossOutput(per_token), the loss at each token" if isinstance(output, Tensor) else ""
        raise ConfigError(f"{where}: compute gives a {type(output).__name__}; it must give a LossOutput{hint}")
    values: dict[str, object] = {"per_token": output.per_token}
    for key, stat in {**output.stats, **output.peaks}.items():
        if not isinstance(stat, Stat):
            raise ConfigError(f"{where}: {key!r} of its stats is not a Stat")
        values |= {f"{key}, values": stat.values, f"{key}, where": stat.where}
    for key, value in values.items():
        if not isinstance(value, Tensor) or value.shape != log_probs.shape:
            shape = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
            cure = "return the loss of each token; loss.aggregation makes the mean"
            raise ConfigError(
                f"{where}: {one_line(key)} must have the shape of log_probs, [tokens]; of {log_probs.numel()} tokens "
                f"it is {one_line(shape)}" + f": {cure}" * (key == "per_token")
            )
        if value.device != log_probs.device:
            raise ConfigError(
                f"{where}: {one_line(key)} is on {value.device}, log_probs are on {log_probs.device}; compute there, "
                "and make new tensors with device=inputs.log_probs.device"
            )
    if output.per_token.dtype != log_probs.dtype:
        raise ConfigError(
            f"{where}: per_token is {_short(output.per_token)}, log_probs are {_short(log_probs)}; return per_token in "
            "the dtype of log_probs"
        )
    return output


def _short(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


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
