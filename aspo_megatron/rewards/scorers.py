"""Which function scores a response: `math`, `reasoning_gym`, or a user's own by import path."""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import numbers
import os
import sys
from collections.abc import Callable, Iterable
from functools import cache
from types import ModuleType
from typing import TYPE_CHECKING

from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import ConfigError

if TYPE_CHECKING:
    from aspo_megatron.config import RewardConfig

Scorer = Callable[[Problem, str], float]

_BUILT_IN = {
    "math": "aspo_megatron.rewards.math:score",
    "reasoning_gym": "aspo_megatron.rewards.reasoning_gym:score",
}


def check(config: RewardConfig, problems: Iterable[Problem] = ()) -> None:
    """Refuse a reward that cannot work, before any process is started.

    Args:
        config: the reward asked for; a user's module is imported.
        problems: those to be scored; each must have what a built-in reward needs.

    Raises:
        ConfigError: `reward.kind` is unknown or cannot be imported, or does not fit a problem.
    """
    if config.kind not in _BUILT_IN:
        resolve(config.kind)
    for problem in problems:
        if config.kind == "math" and problem.answer is None:
            raise ConfigError(
                f"reward.kind: math needs reference answers, and problem {problem.id} has none; "
                "set answer_field of its source"
            )
        if config.kind == "reasoning_gym" and "family" not in problem.metadata:
            raise ConfigError(
                f"reward.kind: reasoning_gym scores problems of reasoning-gym only, which {problem.id} is not"
            )


@cache
def resolve(kind: str) -> Scorer:
    """The function that a reward's name stands for.

    A user's module is looked for where Python looks, then in the current directory.

    Raises:
        ConfigError: no such reward, module or function, or it does not take (problem, response).
    """
    module_name, _, name = _BUILT_IN.get(kind, kind).partition(":")
    if not module_name or not name:
        near = difflib.get_close_matches(kind, _BUILT_IN, n=1)
        hint = f"did you mean {near[0]!r}? Otherwise give" if near else f"it can be {', '.join(_BUILT_IN)} or"
        raise ConfigError(f"reward.kind: unknown reward {kind!r}; {hint} package.module:function")
    module = _import(kind, module_name)
    # A user's names are not declared anywhere, so they are looked up.
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, vars(module), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"reward.kind: {kind!r}: {module.__file__} has no {name!r}{hint}")
    scorer: Scorer = getattr(module, name)
    if not callable(scorer):
        raise ConfigError(f"reward.kind: {kind!r} is a {type(scorer).__name__}, not a function")
    _check_signature(kind, scorer)
    return scorer


def _import(kind: str, module_name: str) -> ModuleType:
    # The `aspo` command does not have the current directory on its path. At the end, so that a file of the user's
    # there (say, `random.py`) hides no installed module.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(module_name)
    except Exception as error:  # Whatever a user's module does wrong as it is imported.
        raise ConfigError(
            f"reward.kind: {kind!r}: cannot import {module_name!r} ({type(error).__name__}: {error})"
        ) from error


def _check_signature(kind: str, scorer: Scorer) -> None:
    try:
        signature = inspect.signature(scorer)
    except ValueError:  # C functions may not tell.
        return
    try:
        signature.bind(None, "")
    except TypeError as error:
        raise ConfigError(
            f"reward.kind: {kind!r} takes {signature}, but is called with (problem, response): {error}"
        ) from error


def evaluate(kind: str, problem: Problem, response: str) -> float:
    """Score one response.

    Raises:
        ValueError: the function gave something else than a finite number.
        Exception: whatever else the function raises.
    """
    value: object = resolve(kind)(problem, response)
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise ValueError(f"reward {kind!r} gave {value!r} for problem {problem.id}; it must give a finite number")
    return float(value)
