"""How much text the `${...}` references of a configuration stand for, computed before any is resolved.

A short file can stand for more text than any memory holds: by references to text that is itself full of references.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Any

from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.yaml_text import MOST_LETTERS

_ESCAPED = re.compile(r"\\\\|\\\$")
_REFERENCE = re.compile(r"\$\{\s*(?:(oc\.env:[^${}]*)|(\.*)([\w\-.\[\]]*))\s*\}")


def refuse_endless(tree: Any) -> None:
    """Refuse references that stand for too much, for themselves, or are of a kind that is not documented.

    Args:
        tree: dicts and lists, with the references as they are written.

    Raises:
        ConfigError: names the key.
    """
    lengths = _Lengths(tree)
    for name in tree:
        if lengths.of((name,), tree[name]) > MOST_LETTERS:
            raise ConfigError(f"{one_line(name)}: its references expand to too much text, or refer to themselves")


def unread(key: str) -> ConfigError:
    """The error for a reference that is malformed, or of a kind that is not read."""
    kinds = "${section.key} and ${oc.env:NAME}"
    return ConfigError(f"{one_line(key)}: only the references {kinds} are supported; write \\${{ for plain text")


class _Lengths:
    def __init__(self, root: Any) -> None:
        self._root = root
        self._known: dict[tuple[Any, ...], float] = {}
        self._variable = max(map(len, os.environ.values()), default=0)

    def of(self, place: tuple[Any, ...], node: Any) -> float:
        """Length of the text that stands at a place; infinite if it refers to itself."""
        if place not in self._known:
            self._known[place] = float("inf")
            if isinstance(node, dict):
                length = sum(len(str(name)) + self.of((*place, name), node[name]) for name in node)
            elif isinstance(node, list):
                length = sum(self.of((*place, number), part) for number, part in enumerate(node))
            else:
                length = len(node) + sum(self._referred(place, node)) if isinstance(node, str) else 0
            self._known[place] = 1 + length
        return self._known[place]

    def _referred(self, place: tuple[Any, ...], text: str) -> Iterator[float]:
        text = _ESCAPED.sub("", text)
        if "${" in _REFERENCE.sub("", text):
            raise unread(".".join(map(str, place)))
        for variable, dots, path in _REFERENCE.findall(text):
            yield (
                self._variable + len(variable) if variable else self._target(place[: -len(dots)] if dots else (), path)
            )

    def _target(self, place: tuple[Any, ...], path: str) -> float:
        node = self._root
        for name in place:
            node = node[name]
        for name in re.findall(r"[^.\[\]]+", path):
            key: Any = int(name) if isinstance(node, list) and name.isdecimal() else name
            if isinstance(node, str):
                break  # itself a reference to a section: a key in there has no more text than the whole
            if not isinstance(node, dict | list) or key not in (node if isinstance(node, dict) else range(len(node))):
                return 0  # there is no such key, and OmegaConf will say so
            place, node = (*place, key), node[key]
        return self.of(place, node)
