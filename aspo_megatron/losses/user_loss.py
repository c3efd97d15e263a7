"""A user's own loss, by import path: found, and tried before a run depends on it."""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import fields

import torch
from torch import Tensor

from aspo_megatron.config import LossConfig
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line, reason_of
from aspo_megatron.losses.base import Loss, LossInput, LossOutput, UpdateTokens, check_output, selection_of
from aspo_megatron.user_code import import_named

_LENGTHS = (3, 2)
"""Tokens of the responses of a trial."""


def import_loss(path: str) -> type[Loss]:
    """The loss at `package.module:Class`.

    Raises:
        ConfigError: it cannot be imported, is no class that derives from `Loss`, is abstract, says neither True nor
            False for `token_wise`, or has a hyperparameter that is a key of every loss.
    """
    module, _, name = path.partition(":")
    if not module or not name:
        raise ConfigError(f"loss.name={path!r}: a loss of your own is package.module:Class")
    # A module that goes to another folder as it is imported must not take the run's paths with it.
    with contextlib.chdir("."):
        loss = import_named(path, "loss.name")
    if not isinstance(loss, type) or not issubclass(loss, Loss):
        raise ConfigError(f"loss.name: {path!r} is not a class that derives from aspo_megatron.losses.Loss")
    if inspect.isabstract(loss):
        missing = one_line(", ".join(sorted(loss.__abstractmethods__)))
        raise ConfigError(f"loss.name: {path!r} is abstract: it has no method {missing}")
    if not isinstance(loss.token_wise, bool):
        raise ConfigError(f"loss.name: {path!r}: token_wise is {loss.token_wise!r}; set it to True or False")
    if loss.select is not Loss.select and not loss.selects:
        raise ConfigError(f"loss.name: {path!r}: it has a method select, which is asked with selects = True alone")
    taken = sorted(set(loss.model_fields) & set(LossConfig.model_fields))
    if taken:
        raise ConfigError(
            f"loss.name: {path!r}: loss.{one_line(taken[0])} is a key that every loss has; rename its field"
        )
    return loss


def try_loss(path: str, loss: Loss) -> None:
    """Compute a loss of a few tokens, whose ratios are around 1.

    Raises:
        ConfigError: it fails, gives no tensor of a finite loss for each token, changes what it is given, has no
            gradient, or depends on other tokens though it says that it is token-wise.
    """
    try:
        _try(path, loss, _inputs())
    except ConfigError:
        raise
    except Exception as error:  # Whatever a user's loss does wrong.
        raise ConfigError(f"loss.name: {path!r}: a trial of it fails: {reason_of(error)}") from error


def _try(path: str, loss: Loss, inputs: LossInput) -> None:
    output = _computed(path, loss, inputs)
    _refuse_changes(path, inputs)
    if not _depends_on(output.per_token, inputs.log_probs):
        raise ConfigError(f"loss.name: {path!r}: its loss has no gradient: have it depend on log_probs")
    if not output.per_token.isfinite().all():
        raise ConfigError(f"loss.name: {path!r}: a trial of it gives {output.per_token.tolist()}, which is not finite")
    if loss.selects:
        selection_of(loss, _update_tokens(inputs))
    if not loss.token_wise:
        return
    alone = torch.cat([_computed(path, loss, _token(inputs, i)).per_token for i in range(sum(_LENGTHS))])
    if not torch.allclose(alone, output.per_token, equal_nan=True):
        raise ConfigError(
            f"loss.name: {path!r}: it sets token_wise = True, but the loss of a token depends on the other tokens; "
            "leave token_wise out"
        )


def _refuse_changes(path: str, inputs: LossInput) -> None:
    """What a loss is given is used again: by the figures of the step, and by its next update."""
    before = _inputs()
    for each in fields(LossInput):
        if not torch.equal(getattr(inputs, each.name), getattr(before, each.name)):
            raise ConfigError(f"loss.name: {path!r}: it changes {each.name} in place; compute with a copy")


def _depends_on(values: Tensor, inputs: Tensor) -> bool:
    if not values.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(values.sum(), inputs, allow_unused=True, retain_graph=True)
    return gradient is not None


def _inputs() -> LossInput:
    tokens = sum(_LENGTHS)
    log_probs = torch.linspace(-2.0, -1.0, tokens)
    return LossInput(
        log_probs=log_probs.clone().requires_grad_(),
        old_log_probs=log_probs - torch.linspace(-0.1, 0.15, tokens),
        advantages=torch.tensor([1.0, -0.5]).repeat_interleave(torch.tensor(_LENGTHS)),
        mask=torch.ones(tokens, dtype=torch.bool),
        entropy=torch.linspace(0.5, 2.0, tokens),
        cu_seqlens=torch.tensor([0, *_LENGTHS]).cumsum(0),
        selected=torch.zeros(tokens, dtype=torch.bool),
    )


def _update_tokens(inputs: LossInput) -> UpdateTokens:
    log_probs, old, advantages = (
        each.detach().double().numpy() for each in (inputs.log_probs, inputs.old_log_probs, inputs.advantages)
    )
    return UpdateTokens(log_probs, old, advantages, seed=1)


def _token(inputs: LossInput, index: int) -> LossInput:
    """One of the tokens, as a response of its own."""
    one = slice(index, index + 1)
    return LossInput(
        log_probs=inputs.log_probs[one],
        old_log_probs=inputs.old_log_probs[one],
        advantages=inputs.advantages[one],
        mask=inputs.mask[one],
        entropy=inputs.entropy[one],
        cu_seqlens=torch.tensor([0, 1]),
        selected=inputs.selected[one],
    )


def _computed(path: str, loss: Loss, inputs: LossInput) -> LossOutput:
    return check_output(path, loss.compute(inputs), inputs.log_probs)
