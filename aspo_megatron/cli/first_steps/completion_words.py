"""The words that a shell may complete after `aspo`: commands, options, settings, and the values these have."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from aspo_megatron.config.reference import OWN_NAME, Key, sections

SHELLS = ("bash", "zsh", "fish")
_SETTINGS = "KEY=VALUE"
"""In the name of an argument that takes settings."""


@dataclass(frozen=True)
class Option:
    """An option of a command. `values`: those that are known; without them it may take a file, a number and so on."""

    names: tuple[str, ...]
    meaning: str
    takes_value: bool
    values: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """A command. `words`: what may follow it besides files; `settings`: whether settings may."""

    name: str
    meaning: str
    options: tuple[Option, ...]
    words: tuple[tuple[str, str], ...]
    settings: bool


def commands(group: Any) -> Iterator[Command]:
    """Every command and group, the whole (called "") first. `group`: click's, of all of `aspo`."""
    yield from _below(group, "", _option_values(), _argument_words())


def _below(
    command: Any, name: str, values: dict[str, tuple[str, ...]], words: dict[str, tuple[str, ...]]
) -> Iterator[Command]:
    inner: dict[str, Any] = getattr(command, "commands", {})
    after = tuple((word, one.get_short_help_str(200)) for word, one in inner.items())
    known = after or tuple((word, "") for word in words.get(name, ()))
    options = tuple(_option(one, values) for one in command.params if one.param_type_name == "option")
    help_option = Option(("--help", "-h"), "Show this message and exit.", False, ())
    settings = any(_SETTINGS in (getattr(one, "metavar", "") or "") for one in command.params)
    yield Command(name, command.get_short_help_str(200), (*options, help_option), known, settings)
    for word, one in inner.items():
        yield from _below(one, f"{name} {word}".strip(), values, words)


def _option(parameter: Any, values: dict[str, tuple[str, ...]]) -> Option:
    names = (*parameter.opts, *parameter.secondary_opts)
    known = next((values[name] for name in names if name in values), ())
    return Option(names, parameter.help or "", not parameter.is_flag, known)


def _option_values() -> dict[str, tuple[str, ...]]:
    """What options may be, of whichever command they are."""
    from typing import get_args

    from aspo_megatron import losses
    from aspo_megatron.api.conversion import DTYPES
    from aspo_megatron.config.words import Aggregation
    from aspo_megatron.evaluation.benchmarks import BENCHMARKS
    from aspo_megatron.evaluation.published import BASES
    from aspo_megatron.plan.hardware import BY_NAME
    from aspo_megatron.plots.sample_file import Kind
    from aspo_megatron.quantize.formats import FORMATS, Layout

    return {
        "--aggregation": get_args(Aggregation),
        "--benchmark": tuple(BENCHMARKS),
        "--device": ("cpu", "cuda", "auto"),
        "--dtype": DTYPES,
        "--format": tuple(FORMATS),
        "--gpu": tuple(BY_NAME),
        "--layout": get_args(Layout),
        "--loss": losses.names(),
        "--only": get_args(Kind),
        "--published": (*BASES, "none"),
        "--reward": ("math", "code", "choice"),
    }


def _argument_words() -> dict[str, tuple[str, ...]]:
    """What arguments of commands may be besides files."""
    from aspo_megatron import losses
    from aspo_megatron.check.comparison import BUILT_IN
    from aspo_megatron.recipes import copies

    return {
        "check": tuple(BUILT_IN),
        "completion": SHELLS,
        "losses": losses.names(),
        "recipes": tuple(recipe.name for recipe in copies.recipes()),
    }


def settings() -> dict[str, tuple[str, ...]]:
    """Every setting whose whole name is known, with its values where they are few."""
    from aspo_megatron import losses
    from aspo_megatron.rewards.scorers import BUILT_IN

    keys = [key for section in sections() for key in section.keys if OWN_NAME not in key.name]
    known = {key.name: _values(key) for key in keys}
    hyperparameters = sorted({name for one in losses.names() for name in losses.get(one).model_fields})
    known |= {f"loss.{name}": () for name in hyperparameters}
    return known | {"loss.name": losses.names(), "reward.kind": (*BUILT_IN, "mixture")}


def _values(key: Key) -> tuple[str, ...]:
    if key.type.startswith("true or false"):
        return ("true", "false")
    return () if key.type.startswith("list") else tuple(re.findall(r"`([\w-]+)`", key.type))
