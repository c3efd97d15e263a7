"""Policy losses by name: pure tensor functions, one file each, or a user's own by import path."""

from __future__ import annotations

import difflib
import json
import pkgutil
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from aspo_megatron.config import LossConfig
from aspo_megatron.config.wording import reason_in_words
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line, reason_of
from aspo_megatron.losses.base import Loss, LossInput, LossOutput, Stat, UpdateTokens, register, registered
from aspo_megatron.losses.user_loss import import_loss, try_loss

__all__ = ["Loss", "LossInput", "LossOutput", "Stat", "UpdateTokens", "build", "get", "names", "register"]

# A loss registers itself when its module is imported.
for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


def names() -> tuple[str, ...]:
    """The names of the losses that come with the product, sorted."""
    return tuple(sorted(registered()))


def get(name: str) -> type[Loss]:
    """The loss called `name`; its hyperparameters are its pydantic fields.

    Args:
        name: see `names`; or `package.module:Class`, a user's own, which is imported.

    Raises:
        ConfigError: there is none; names the key `loss.name`, the nearest name and all names. Or see `import_loss`.
    """
    if ":" in name:
        return import_loss(name)
    if name not in registered():
        raise ConfigError(
            f"loss.name={name!r}: no such loss; the nearest is {_nearest(name, names())!r}. "
            f"The losses are: {', '.join(names())}; one of your own is package.module:Class"
        )
    return registered()[name]


def build(name: str, hyperparameters: Mapping[str, Any]) -> Loss:
    """The loss called `name` with these hyperparameters; those left out have the loss's defaults.

    A loss of the user's is tried on a few tokens.

    Args:
        name: see `get`.
        hyperparameters: the keys of the configuration's `loss` section beyond those that every loss has.

    Raises:
        ConfigError: no such loss, or a hyperparameter that it does not have or does not accept; names the key
            `loss.KEY`, the reason and, for an unknown key, the nearest valid one. Or see `try_loss`.
    """
    kind = get(name)
    try:
        # JSON, because there pydantic's strict mode takes lists for tuples, as for the rest of the configuration.
        loss = kind.model_validate_json(json.dumps(dict(hyperparameters), default=str), strict=True)
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(name, kind, detail) for detail in error.errors())) from None
    except Exception as error:  # Whatever a class of the user's does wrong as it is made.
        raise ConfigError(f"loss.name: {name!r} cannot be made: {reason_of(error)}") from error
    if ":" in name:
        try_loss(name, loss)
    return loss


def _explain(name: str, loss: type[Loss], detail: ErrorDetails) -> str:
    """One error of pydantic, in the words of the configuration."""
    reason = one_line(reason_in_words(detail))
    if not detail["loc"]:
        return f"loss: {reason}"
    key = one_line(detail["loc"][0])
    if detail["type"] == "missing":
        return f"loss.{key}: give it a value, loss {name!r} has no default for it"
    if detail["type"] != "extra_forbidden":
        return f"loss.{key}: {reason}"
    # The section passes on whatever it does not know itself, a misspelt key of its own included.
    valid = [*loss.model_fields, *LossConfig.model_fields]
    own = ", ".join(loss.model_fields) or "none"
    return (
        f"loss.{key}: unknown key; the nearest is {_nearest(key, valid)!r}. "
        f"The hyperparameters of loss {name!r} are: {own}"
    )


def _nearest(word: str, candidates: Iterable[str]) -> str:
    return difflib.get_close_matches(word.lower(), candidates, n=1, cutoff=0.0)[0]
