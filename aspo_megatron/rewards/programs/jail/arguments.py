"""A function's arguments and result as JSON, with what JSON does not know.

Of arguments: tuples, sets, complex numbers, keys that are no texts, linked lists, trees, keywords. Of results: the same
but for tuples, which are lists as all sequences are, and keys of which JSON makes texts.
Each of those is an object with one name, which begins with a NUL as no name does that people write.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from . import nodes

_TUPLE, _SET, _DICT, _KEYWORDS, _COMPLEX = "\0tuple", "\0set", "\0dict", "\0keywords", "\0complex"
_LIST_NODE, _TREE_NODE = "\0list_node", "\0tree_node"
_AS_IN_JSON = (str, int, float, type(None))


class _Keywords(dict[str, Any]):
    """Arguments by name, after all others."""


def dump(arguments: Sequence[Any], keywords: Mapping[str, Any] | None = None) -> str:
    """As JSON, for `load`.

    Raises:
        TypeError: there is something else in them than constants, Python's own containers and nodes.
    """
    named = [{_KEYWORDS: {name: _marked(value) for name, value in keywords.items()}}] if keywords else []
    return json.dumps([*map(_marked, arguments), *named])


def load(text: str, classes: Mapping[str, Any] = nodes.CLASSES) -> tuple[list[Any], dict[str, Any]]:
    """Arguments by place and by name, from the JSON of `dump`, or from any list.

    Args:
        text: that JSON.
        classes: what `ListNode` and `TreeNode` are.
    """
    makers: dict[str, Callable[[Any], Any]] = {
        _TUPLE: tuple,
        _SET: set,
        _DICT: dict,
        _KEYWORDS: _Keywords,
        _COMPLEX: lambda parts: complex(*parts),
        _LIST_NODE: lambda values: nodes.list_node(values, classes["ListNode"]),
        _TREE_NODE: lambda values: nodes.tree_node(values, classes["TreeNode"]),
    }

    def restored(found: dict[str, Any]) -> Any:
        ((name, content),) = found.items() if len(found) == 1 else [("", None)]
        return makers[name](content) if name in makers else found

    arguments = json.loads(text, object_hook=restored)
    keywords = arguments.pop() if arguments and isinstance(arguments[-1], _Keywords) else {}
    return arguments, keywords


def dump_result(value: Any) -> str:
    """A function's result as JSON, such that equal results have equal JSON; also that of what is expected.

    Raises:
        TypeError: there is something else in it than constants, what can be iterated over, numpy's and nodes.
    """
    return json.dumps(_result(value))


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
    return _marked_object(value, _marked) or value


def _marked_object(value: Any, marked: Callable[[Any], Any]) -> Any:
    """Of what is no container; None if it is nothing that is marked."""
    if isinstance(value, complex):
        return {_COMPLEX: [value.real, value.imag]}
    if nodes.is_tree_node(value):
        return {_TREE_NODE: [marked(one) for one in nodes.tree_values(value)]}
    if nodes.is_list_node(value):
        return {_LIST_NODE: [marked(one) for one in nodes.list_values(value)]}
    return None


def _result(value: Any) -> Any:
    if isinstance(value, _AS_IN_JSON):
        return value
    if isinstance(value, dict):
        return _result_dict([[_result(key), _result(one)] for key, one in value.items()])
    if isinstance(value, set | frozenset):
        return {_SET: sorted(map(_result, value), key=json.dumps)}
    marked = _marked_object(value, _result)
    if marked is not None:
        return marked
    return _result(value.tolist()) if hasattr(value, "tolist") else [_result(one) for one in value]


def _result_dict(items: list[list[Any]]) -> dict[str, Any]:
    """JSON's own if it makes texts of all keys."""
    if all(isinstance(key, _AS_IN_JSON) for key, _ in items):
        return dict(items)
    return {_DICT: sorted(items, key=json.dumps)}
