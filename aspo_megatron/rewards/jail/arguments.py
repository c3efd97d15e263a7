"""A function's arguments as JSON, with what JSON does not know: tuples, sets, keys that are no texts, keywords.

Each of those is an object with one name, which begins with a NUL as no name does that people write.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

_TUPLE, _SET, _DICT, _KEYWORDS = "\0tuple", "\0set", "\0dict", "\0keywords"


class _Keywords(dict[str, Any]):
    """Arguments by name, after all others."""


def dump(arguments: Sequence[Any], keywords: Mapping[str, Any] | None = None) -> str:
    """As JSON, for `load`.

    Raises:
        TypeError: there is something else in them than constants and Python's own containers.
    """
    named = [{_KEYWORDS: {name: _marked(value) for name, value in keywords.items()}}] if keywords else []
    return json.dumps([*map(_marked, arguments), *named])


def load(text: str) -> tuple[list[Any], dict[str, Any]]:
    """Arguments by place and by name, from the JSON of `dump`, or from any list."""
    arguments = json.loads(text, object_hook=_restored)
    keywords = arguments.pop() if arguments and isinstance(arguments[-1], _Keywords) else {}
    return arguments, keywords


def _marked(value: Any) -> Any:
    if isinstance(value, list):
        return [_marked(one) for one in value]
    if isinstance(value, tuple):
        return {_TUPLE: [_marked(one) for one in value]}
    if isinstance(value, set | frozenset):
        return {_SET: [_marked(one) for one in value]}
    if isinstance(value, dict):
        if all(isinstance(key, str) for key in value):
            return {key: _marked(one) for key, one in value.items()}
        return {_DICT: [[_marked(key), _marked(one)] for key, one in value.items()]}
    return value


def _restored(found: dict[str, Any]) -> Any:
    if len(found) != 1:
        return found
    ((name, content),) = found.items()
    if name == _TUPLE:
        return tuple(content)
    if name == _SET:
        return set(content)
    if name == _DICT:
        return dict(content)
    return _Keywords(content) if name == _KEYWORDS else found
