"""Constant expressions of Python, evaluated from their syntax tree: what they compute is known and bounded."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any

from aspo_megatron.rewards.programs.jail.nodes import list_node, tree_node

_MOST_VALUES = 1 << 18
_MOST_BITS = 1 << 13


def _range(*bounds: int) -> range:
    made = range(*bounds)
    if len(made) > _MOST_VALUES:
        raise ValueError("a long range")
    return made


_MAKERS: Mapping[str, Callable[..., Any]] = {
    **{made.__name__: made for made in (set, frozenset, tuple, list, float)},
    "range": _range,
    "list_node": list_node,
    "tree_node": tree_node,
}
_SIGNS: Mapping[type[ast.unaryop], Callable[[Any], Any]] = {
    ast.USub: operator.neg,
    ast.UAdd: operator.pos,
    ast.Not: operator.not_,
}
_OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_NOT_CONSTANT = (ValueError, TypeError, ArithmeticError, MemoryError, RecursionError)


def constant(node: ast.expr) -> Any:
    """The value of literals, of arithmetic and repetition with them, and of containers and nodes made from them.

    Raises:
        ValueError: it is something else, or large.
    """
    try:
        return _value(node)
    except _NOT_CONSTANT as error:
        raise ValueError("no constant") from error


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.List | ast.Tuple | ast.Set):
        values = [_value(one) for one in node.elts]
        return values if isinstance(node, ast.List) else tuple(values) if isinstance(node, ast.Tuple) else set(values)
    if isinstance(node, ast.Dict):
        return {_key(key): _value(one) for key, one in zip(node.keys, node.values, strict=True)}
    if isinstance(node, ast.UnaryOp) and type(node.op) in _SIGNS:
        return _SIGNS[type(node.op)](_value(node.operand))
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _value(node.left), _value(node.right)
        _bound(node.op, left, right)
        return _OPERATORS[type(node.op)](left, right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _MAKERS and not node.keywords:
        return _MAKERS[node.func.id](*map(_value, node.args))
    raise ValueError(type(node).__name__)


def _key(node: ast.expr | None) -> Any:
    if node is None:
        raise ValueError("**")
    return _value(node)


def _bound(operation: ast.operator, left: Any, right: Any) -> None:
    """Refuse what makes much out of little."""
    numbers = isinstance(left, int | float | complex) and isinstance(right, int | float | complex)
    if isinstance(operation, ast.Mult) and not numbers:
        sequence, times = (right, left) if isinstance(left, int) else (left, right)
        if times * _count(sequence) > _MOST_VALUES:
            raise ValueError("a long repetition")
    elif isinstance(operation, ast.Pow) and isinstance(left, int) and isinstance(right, int):
        if left.bit_length() * right > _MOST_BITS:
            raise ValueError("a large power")
    elif not numbers and not isinstance(operation, ast.Add):  # formats
        raise ValueError("no arithmetic")


def _count(value: Any) -> int:
    """Of the values in a list or the characters in a text."""
    return sum(map(_count, value)) if isinstance(value, list | tuple) else len(value) if isinstance(value, str) else 1
