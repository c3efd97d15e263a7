"""The configuration of a run, from whatever it is given as."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line

if TYPE_CHECKING:
    from aspo_megatron.config import RunConfig


def load_config(
    config: str | os.PathLike[str] | Mapping[str, Any] | RunConfig, overrides: Sequence[str] = ()
) -> RunConfig:
    """The configuration of a run, checked as far as that goes without its model and problems.

    Every key, its type, default and meaning are in the reference of the configuration. Relative paths are relative to
    the current directory. Nothing is read but the configuration itself.

    Args:
        config: Path of a YAML file; or what would be in it, as mappings of keys to values; or a configuration that is
            loaded already.
        overrides: Settings that replace those of `config`, as on the command line: `"optimizer.lr=2e-6"`, the value
            being YAML.

    Returns:
        The whole configuration, defaults included. Immutable.

    Raises:
        ConfigError: A wrong or missing key, a wrong value or no such file; a line for each.

    Example:
        ```python
        config = load_config("run.yaml", ["optimizer.lr=2e-6", "loss.name=grpo"])
        print(config.loss.name, config.parallel.world_size)
        ```
    """
    from aspo_megatron.config import RunConfig
    from aspo_megatron.config.io import config_of
    from aspo_megatron.config.io import load_config as of_file

    words = checked_words(overrides)
    if isinstance(config, RunConfig | Mapping):
        return config_of(config, words)
    if not isinstance(config, str | os.PathLike):
        raise ConfigError(f"the configuration is a {type(config).__name__}; give a path, a mapping or a RunConfig")
    return of_file(Path(config), words)


def checked_words(overrides: Sequence[str]) -> list[str]:
    """Overrides as a list of their words.

    Raises:
        ConfigError: they are one text, or something else than texts.
    """
    if isinstance(overrides, str | Mapping) or not all(isinstance(word, str) for word in overrides):
        raise ConfigError(f"overrides: give a list of texts, such as ['optimizer.lr=2e-6'], not {one_line(overrides)}")
    return list(overrides)
