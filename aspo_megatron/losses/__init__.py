"""Policy losses by name: pure tensor functions, one file each. Adding a loss is adding a file to this package."""

from __future__ import annotations

import difflib
import pkgutil
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any

from pydantic import ValidationError

from aspo_megatron.config import LossConfig
from aspo_megatron.errors import ConfigError
from aspo_megatron.losses.base import Loss, LossInput, LossOutput, Stat, register, registered

__all__ = ["Loss", "LossInput", "LossOutput", "Stat", "build", "get", "names", "register"]

# A loss registers itself when its module is imported.
for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


def names() -> tuple[str, ...]:
    """The names that `loss.name` may have, sorted."""
    return tuple(sorted(registered()))


def get(name: str) -> type[Loss]:
    """The loss called `name`; its hyperparameters are its pydantic fields.

    Raises:
        ConfigError: there is none; names the key `loss.name`, the nearest name and all names.
    """
    if name not in registered():
        raise ConfigError(
            f"loss.name={name!r}: no such loss; the nearest is {_nearest(name, names())!r}. "
            f"The losses are: {', '.join(names())}"
        )
    return registered()[name]


def build(name: str, hyperparameters: Mapping[str, Any]) -> Loss:
    """The loss called `name` with these hyperparameters; those left out have the loss's defaults.

    Args:
        name: see `names`.
        hyperparameters: the keys of the configuration's `loss` section beyond those that every loss has.

    Raises:
        ConfigError: no such loss, or a hyperparameter that it does not have or does not accept; names the key
            `loss.KEY`, the reason and, for an unknown key, the nearest valid one.
    """
    loss = get(name)
    try:
        return loss.model_validate(dict(hyperparameters))
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(loss, detail) for detail in error.errors())) from None


def _explain(loss: type[Loss], detail: Mapping[str, Any]) -> str:
    """One error of pydantic, in the words of the configuration."""
    if not detail["loc"]:
        return f"loss: {detail['msg']}"
    key = str(detail["loc"][0])
    if detail["type"] != "extra_forbidden":
        return f"loss.{key}={detail['input']!r}: {detail['msg']}"
    # The section passes on whatever it does not know itself, a misspelt key of its own included.
    valid = [*loss.model_fields, *LossConfig.model_fields]
    own = ", ".join(loss.model_fields) or "none"
    return (
        f"loss.{key}: unknown key; the nearest is {_nearest(key, valid)!r}. "
        f"The hyperparameters of loss {loss.name!r} are: {own}"
    )


def _nearest(word: str, candidates: Iterable[str]) -> str:
    return difflib.get_close_matches(word.lower(), candidates, n=1, cutoff=0.0)[0]
