"""A configuration that is given in Python, as the tree of dicts and lists that a YAML file would be read as."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aspo_megatron.config.base import Section
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line


def given_tree(given: Mapping[str, Any] | Section) -> dict[str, Any]:
    """The tree of what is given; `${...}` in the texts of a mapping refers to other keys, as in a file.

    Raises:
        ConfigError: a key is no text, or a value is none that YAML has; names the key.
    """
    try:
        tree = _node(given, "")
    except RecursionError as error:
        raise ConfigError("the mapping of settings holds itself") from error
    assert isinstance(tree, dict)
    return tree


def without_references(node: Any) -> Any:
    """A tree in which `${` is escaped: what is saved is a value, never a reference to be resolved again."""
    if isinstance(node, str):
        return re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", node)
    if isinstance(node, dict):
        return {key: without_references(value) for key, value in node.items()}
    if isinstance(node, list):
        return [without_references(value) for value in node]
    return node


def _node(value: object, name: str) -> Any:
    if isinstance(value, Section):
        return without_references(value.model_dump(mode="json"))
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{one_line(name or 'the settings')}: keys have to be text, not {one_line(key)}")
        return {key: _node(child, f"{name}.{key}" if name else key) for key, child in value.items()}
    if isinstance(value, list | tuple):
        return [_node(child, f"{name}.{number}") for number, child in enumerate(value)]
    if isinstance(value, Path):
        return str(value)
    if value is None or type(value) in (str, bool, int, float):
        return value
    raise ConfigError(f"{one_line(name)}: is a {type(value).__name__}; give text, a number, true or false, or a list")
