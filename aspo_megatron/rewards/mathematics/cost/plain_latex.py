"""Pieces of LaTeX that are simple enough to be sure of what computing with them costs."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from fractions import Fraction

_LONGEST_NUMBER = 100
_FRACTION = re.compile(r"\\[dt]?frac \{([^{}]*)\} \{([^{}]*)\}")
_LOWER_END = re.compile(r"\{ [a-zA-Z] = (.*) \}")
_IN_PYTHON = {"{": "(", "}": ")", r"\cdot": "*", r"\times": "*", r"\left": "", r"\right": ""}
_ARITHMETIC = re.compile(r"[0-9 ()+*/-]*")
_POLYNOMIAL = re.compile(
    r"(?:[a-zA-Z](?![a-zA-Z])|[0-9(){}+-]|\\(?:cdot|times|left|right)|\^(?:[0-9]|\{[0-9]{1,2}\}))*"
)
_FRACTIONS = re.compile(r"(?:\\(?:begin|end)\{[bp]?matrix\}|\\\\|\\(?:[dt]?frac|left|right)|[0-9&(){}/+-])*")


def is_whole(tokens: Sequence[str]) -> bool:
    """Whether the end of a range is a whole number, written with fractions of numbers or not; no if in doubt."""
    text = " ".join(tokens)
    lower = _LOWER_END.fullmatch(text)
    text, changed = lower[1] if lower else text, 1
    while changed:
        text, changed = _FRACTION.subn(r"((\1)/(\2))", text)
    text = " ".join(_IN_PYTHON.get(token, token) for token in re.split(r"(\\[a-z]+|[{}])", text)).strip()
    if len(text) > _LONGEST_NUMBER or not _ARITHMETIC.fullmatch(text):
        return False
    try:
        return _value(ast.parse(text, mode="eval").body).denominator == 1
    except (SyntaxError, ValueError, ZeroDivisionError):
        return False


def _value(node: ast.expr) -> Fraction:
    match node:
        case ast.Constant(value=int(value)):
            return Fraction(value)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -_value(operand)
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _value(left) + _value(right)
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return _value(left) - _value(right)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _value(left) * _value(right)
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return _value(left) / _value(right)
    raise ValueError


def is_polynomial(tokens: Sequence[str]) -> bool:
    """Whether nothing but whole numbers, variables, and whole powers of them is added and multiplied."""
    return _POLYNOMIAL.fullmatch("".join(tokens)) is not None


def is_of_fractions(tokens: Sequence[str]) -> bool:
    """Whether nothing but fractions of whole numbers is in matrices, of which no determinant is taken."""
    return _FRACTIONS.fullmatch("".join(tokens)) is not None
