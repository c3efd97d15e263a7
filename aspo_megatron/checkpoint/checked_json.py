"""JSON that bears a checksum of itself, and the fields of what anybody has written, of their types and in their ranges.

Taking a field raises a ValueError that names it; who reads the file adds its name.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import xxhash

from aspo_megatron.foreign_text import one_line

LARGEST = 2**63 - 1


def shown(name: str) -> str:
    """A tensor's name of somebody's file, for a place in a line."""
    return one_line(name[:200])


def with_digest(content: Mapping[str, Any]) -> bytes:
    """What is told, as JSON that bears a checksum of itself."""
    return json.dumps({**content, "digest": _digest(content)}, indent=1).encode() + b"\n"


def self_consistent(content: Mapping[str, Any]) -> bool:
    """Whether what was read is what `with_digest` was given."""
    return content.get("digest") == _digest({name: value for name, value in content.items() if name != "digest"})


def _digest(content: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())


def mapping(value: Any, name: str) -> dict[str, Any]:
    """A JSON object itself, `name` for the error."""
    if not isinstance(value, dict):
        raise ValueError(f"{one_line(name)} is no mapping")
    return value


def items(value: Any, name: str) -> list[Any]:
    """A JSON list itself, `name` for the error."""
    if not isinstance(value, list):
        raise ValueError(f"{one_line(name)} is no list")
    return value


def whole(told: Mapping[str, Any], name: str, most: int = LARGEST) -> int:
    """A whole number from 0 to `most`."""
    value = _there(told, name)
    if type(value) is not int or not 0 <= value <= most:
        raise ValueError(f"{name} is no whole number from 0 to {most}")
    return value


def wholes(told: Mapping[str, Any], name: str, most: int = LARGEST) -> list[int]:
    """A list of whole numbers from 0 to `most`."""
    values = _there(told, name)
    if not isinstance(values, list) or any(type(value) is not int or not 0 <= value <= most for value in values):
        raise ValueError(f"{name} is no list of whole numbers from 0 to {most}")
    return values


def number(told: Mapping[str, Any], name: str, most: float) -> float:
    """A finite number from 0 to `most`."""
    value = _there(told, name)
    if type(value) not in (int, float) or not 0 <= value <= most or not math.isfinite(value):
        raise ValueError(f"{name} is no number from 0 to {most:g}")
    return float(value)


def text(told: Mapping[str, Any], name: str, most: int = 200) -> str:
    """A text of at most so many characters, none of which has a meaning to a terminal."""
    value = _there(told, name)
    if not isinstance(value, str) or len(value) > most or one_line(value) != value:
        raise ValueError(f"{name} is no text of at most {most} plain characters")
    return value


def _there(told: Mapping[str, Any], name: str) -> Any:
    if name not in told:
        raise ValueError(f"{name} is missing")
    return told[name]
