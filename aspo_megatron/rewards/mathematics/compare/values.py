"""Comparing two formulas by their values, which is quick where showing by algebra that they are the same is slow."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sympy

_DIGITS = 15
_MOST_DIGITS = 100
_CLEARLY = 1e-4
_CLEARLY_IF_SMALL = 1e-2
_NOTHING = 1e-40
"""What is smaller may be what is left of numbers that cancel."""

_DIGITS_OF_NUMBERS = 40
_SURELY = sympy.Float("1e-30")
_SMALL, _OF_SMALL = sympy.Float("1e-4"), sympy.Float("1.000001e-4")
_PLACE, _OF_ENDLESS = sympy.Float("1.000001e-6"), sympy.Float("1e-8")

POINTS = 2
"""At how many points formulas with variables are looked at."""

_EXACT = (sympy.Rational, sympy.Add, sympy.Mul, sympy.Pow, sympy.factorial, sympy.binomial)
_UNKNOWN = (sympy.core.function.AppliedUndef, sympy.Derivative)
# Their value takes a while, or their name is all that counts.
_UNSUITED = (
    sympy.Integral,
    sympy.Limit,
    sympy.Derivative,
    sympy.Sum,
    sympy.Product,
    sympy.UnevaluatedExpr,
    sympy.MatrixExpr,
    sympy.Mod,
    sympy.core.function.AppliedUndef,
)


def same_by_value(reference: Any, answer: Any) -> bool | None:
    """Whether two expressions are the same, as far as their values tell; None if they do not.

    Fractions are compared exactly, decimals with them and others as `_allowed` says. Others are told to differ if they
    clearly do, at some point if they have variables.

    Args:
        reference: an expression.
        answer: an expression, or an equation whose right side counts. Of anything else nothing is known.
    """
    answer = answer.rhs if isinstance(answer, sympy.Eq) else answer
    if not (isinstance(reference, sympy.Expr) and isinstance(answer, sympy.Expr)):
        return None
    try:
        exact = _fraction(reference), _fraction(answer)
        if None not in exact:
            return bool(exact[0] == exact[1])
        if _is_suited(reference) and _is_suited(answer):
            if not (reference.free_symbols or answer.free_symbols):
                return _same_numbers(reference, answer)
            differ = any(_differ_at(reference, answer, point) for point in range(POINTS))
            return False if differ else None
    except Exception:  # Of the many things that evaluating odd formulas can raise, all mean that it is not known.
        return None
    return None


def _same_numbers(one: Any, other: Any) -> bool | None:
    has_decimals = one.has(sympy.Float) or other.has(sympy.Float)
    values: list[Any] = [_rational(each) for each in (one, other)] if has_decimals else [None]
    are_rational = None not in values
    if not are_rational:
        values = [value_at(each, (), 0, _DIGITS_OF_NUMBERS) for each in (one, other)]
    if None in values:
        return None
    first, second = values
    difference, larger = abs(first - second), max(abs(first), abs(second))
    if has_decimals:
        return bool(difference <= _allowed(larger, are_rational))
    return False if difference > _SURELY * larger else None


def _allowed(larger: Any, are_rational: bool) -> Any:
    """How much decimals may differ: what the sixth place holds, or the fourth digit of small numbers.

    What has endless digits, as a multiple of pi, may also differ in the eighth digit.
    """
    if larger < _SMALL:
        return _OF_SMALL * larger
    return _PLACE if are_rational else max(_PLACE, _OF_ENDLESS * larger)


def _rational(expression: Any) -> Any:
    """The value of plain arithmetic with decimals, as they are written; None of what is no fraction."""
    return _fraction(
        expression.replace(lambda part: isinstance(part, sympy.Float), lambda part: sympy.Rational(str(part)))
    )


def _fraction(expression: Any) -> Any:
    """The value of an expression of plain arithmetic if it is a fraction; None if not."""
    if not all(isinstance(node, _EXACT) for node in sympy.preorder_traversal(expression)):
        return None
    value = expression.doit()
    return value if isinstance(value, sympy.Rational) else None


def _is_suited(expression: Any) -> bool:
    unsuited = isinstance(expression, sympy.Symbol) or expression.has(*_UNSUITED, sympy.oo, sympy.zoo, sympy.nan)
    return not unsuited


def _differ_at(one: Any, other: Any, point: int) -> bool:
    names = names_of(one, other)
    first, second = (value_at(expression, names, point) for expression in (one, other))
    if first is None or second is None:
        return False
    larger = max(abs(first), abs(second))
    # math-verify rounds to six decimals, so that any two numbers below are the same to it.
    allowed = max(_CLEARLY, _CLEARLY * larger) if larger > _CLEARLY else max(_NOTHING, _CLEARLY_IF_SMALL * larger)
    return bool(abs(first - second) > allowed)


def value_at(expression: Any, names: Iterable[str], point: int, digits: int = _DIGITS) -> Any:
    """The value of an expression at a point, complex perhaps; None if it is not known to be a finite number.

    Variables have a fraction each, others at each point. What is applied to something and not known otherwise, as f
    in f(x), is one more variable.

    Args:
        expression: any.
        names: those of all variables in question, so that different expressions have the same values for them.
        point: counted from 0.
        digits: significant ones.
    """
    if expression.has(*_UNKNOWN):
        expression = expression.replace(lambda part: isinstance(part, _UNKNOWN), lambda part: sympy.Symbol(str(part)))
        names = {*names, *(symbol.name for symbol in expression.free_symbols)}
    # By name, so that symbols that are said to be real and others of the same name have the same value.
    values = {name: sympy.Rational(7 * index + 11 + 5 * point, 23) for index, name in enumerate(sorted(names))}
    subs = {symbol: values[symbol.name] for symbol in expression.free_symbols}
    value = expression.evalf(digits, subs=subs, maxn=_MOST_DIGITS)
    return value if value.is_number and value.is_finite and not value.has(sympy.AccumBounds) else None


def names_of(*expressions: Any) -> set[str]:
    """The names of the variables in expressions."""
    return {symbol.name for expression in expressions for symbol in expression.free_symbols}
