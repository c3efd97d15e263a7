r"""Whether an answer has a value wherever it must have one.

What SymPy and math-verify say of a formula that hides an infinity or a division by zero is not to be relied on: the
difference of 7 and `\max(1,\infty)` is zero to them. Such an answer would be right for any reference.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import sympy
from latex2sympy2_extended.logic import And
from math_verify.grader import is_equation, take_last_relation

from aspo_megatron.rewards.mathematics.compare.values import POINTS, names_of, value_at

Place = Literal["alone", "listed", "end"]

_UNSURE_BITS = 8
"""A value of fewer bits is what is left of numbers that cancel."""

_INFINITE = (sympy.oo, -sympy.oo)
_HARMLESS = (
    *(sympy.Add, sympy.Mul, sympy.exp, sympy.sin, sympy.cos, sympy.sinh, sympy.cosh, sympy.Abs, sympy.re, sympy.im),
    *(sympy.Max, sympy.Min, sympy.floor, sympy.ceiling, sympy.conjugate, sympy.sign, sympy.erf, sympy.UnevaluatedExpr),
)
"""Finite wherever what they are applied to is."""

_NAMES = (sympy.Derivative, sympy.MatrixExpr, sympy.core.function.AppliedUndef)
_REPEATED = (sympy.Sum, sympy.Product, sympy.Integral, sympy.Limit)
_POLES = {
    **dict.fromkeys((sympy.tan, sympy.sec), sympy.cos),
    **dict.fromkeys((sympy.cot, sympy.csc), sympy.sin),
    **dict.fromkeys((sympy.tanh, sympy.sech), sympy.cosh),
    **dict.fromkeys((sympy.coth, sympy.csch), sympy.sinh),
}
"""What is zero where a function is not finite."""


def is_finite_where_needed(reference: Any, answer: Any, text: str = "") -> bool:
    r"""Whether all parts of an answer are known to be finite, but for infinities where the reference may have them.

    These are infinity itself, the ends of intervals and inequalities, and elements of lists, sets and matrices that
    have the same infinity in the reference. Sums, integrals and limits may go to infinity if their value is finite.

    Args:
        reference: what math-verify has read.
        answer: the same. Of an equation the last side counts if the reference is none.
        text: what the answer was read in; infinity that is only there was left out in reading, as in `\gcd(7,\infty)`.
    """
    if isinstance(answer, str) or (isinstance(answer, sympy.Basic) and answer == reference):
        return True
    if "\\infty" in text and "=" not in text and not answer.has(*_INFINITE, sympy.zoo, sympy.nan):
        return False
    if is_equation(answer) and not is_equation(reference):
        answer = take_last_relation(answer).rhs
    expected = {_infinity(part) for part, place in _parts(reference) if place != "end"}
    for part, place in _parts(answer):
        infinity = _infinity(part)
        if infinity is None:
            if not _is_finite(part):
                return False
        elif place == "listed" and infinity not in expected:
            return False
    return True


def _parts(node: Any, place: Place = "alone") -> Iterator[tuple[Any, Place]]:
    """The expressions that a set, a list, a relation or a matrix consists of."""
    if isinstance(node, sympy.MatrixBase):
        children: Any = node.flat()
        place = "listed"
    elif isinstance(node, sympy.Interval):
        children, place = (node.start, node.end), "end"
    elif isinstance(node, sympy.FiniteSet | sympy.Tuple | sympy.Eq):
        children, place = node.args, "listed"
    elif isinstance(node, sympy.core.relational.Relational):
        children, place = node.args, "end"
    elif isinstance(node, And | sympy.Set | sympy.logic.boolalg.BooleanFunction):
        children = node.args
    else:
        if isinstance(node, sympy.Expr):
            yield node, place
        return
    for child in children:
        yield from _parts(child, place)


def _infinity(expression: Any) -> Any:
    """Infinity with its sign if an expression is that and nothing else; None if not."""
    if expression in _INFINITE:
        return expression
    if isinstance(expression, sympy.Mul) and len(expression.args) == 2 and expression.args[0] == -1:
        inner = _infinity(expression.args[1])
        return None if inner is None else -inner
    return None


def _is_finite(expression: Any) -> bool:
    points = range(POINTS if expression.free_symbols else 1)
    try:
        return all(_Walk(point).is_finite(expression) for point in points)
    except Exception:  # Of the many things that evaluating odd formulas can raise, all mean that it is not known.
        return False


class _Walk:
    """Goes through an expression from its leaves on, with a number for each variable."""

    def __init__(self, point: int) -> None:
        self._point = point
        self._seen: set[Any] = set()
        self._is_result = False

    def is_finite(self, node: Any) -> bool:
        """Whether it is known that a part and all in it is finite."""
        if node in self._seen:
            return True
        if node in (*_INFINITE, sympy.zoo, sympy.nan) or isinstance(node, sympy.AccumBounds):
            return False
        if isinstance(node, _REPEATED):
            found = self._is_result or self._repeated(node)
        elif isinstance(node, sympy.Piecewise):
            found = any(self.is_finite(value) for value, _ in node.args)
        elif isinstance(node, sympy.MatrixBase):
            found = all(self.is_finite(each) for each in node.flat())
        else:
            found = all(self.is_finite(each) for each in node.args) and self._is_regular(node)
        if found:
            self._seen.add(node)
        return found

    def _is_regular(self, node: Any) -> bool:
        """Whether a function of finite numbers is finite for these."""
        if not node.args or not isinstance(node, sympy.Expr) or isinstance(node, (*_HARMLESS, *_NAMES)):
            return True
        if isinstance(node, sympy.Pow):
            return self._is_finite_power(*node.args)
        if isinstance(node, sympy.gamma | sympy.factorial):
            return self._is_no_pole(node.args[0] + int(isinstance(node, sympy.factorial)))
        zeros = _not_to_be_zero(node)
        return all(map(self._is_nonzero, zeros)) if zeros else self._value(node) is not None

    def _is_finite_power(self, base: Any, exponent: Any) -> bool:
        if isinstance(base, sympy.MatrixBase | sympy.MatrixExpr) or exponent.is_nonnegative is True:
            return True
        if base is sympy.E or (isinstance(base, sympy.Rational) and base != 0) or self._is_nonzero(base):
            return True
        value = self._value(exponent)
        return value is not None and bool(sympy.re(value) >= 0)

    def _is_no_pole(self, argument: Any) -> bool:
        """Whether the gamma function is finite."""
        value = self._value(argument)
        if value is None:
            return False
        below = -round(sympy.re(value))
        return bool(below < 0) or self._is_nonzero(argument + below)

    def _is_nonzero(self, expression: Any) -> bool:
        value = self._value(expression)
        return value is not None and not all(_is_nothing(part) for part in value.as_real_imag())

    def _value(self, expression: Any) -> Any:
        return value_at(expression, names_of(expression), self._point)

    def _repeated(self, node: Any) -> bool:
        """A sum, product, integral or limit: its parts, and what it comes to as far as that can be found."""
        bounds = node.args[2:3] if isinstance(node, sympy.Limit) else [b for limit in node.limits for b in limit[1:]]
        if not all(_infinity(bound) is not None or self.is_finite(bound) for bound in bounds):
            return False
        if not self.is_finite(node.args[0]):
            return False
        if not bounds:
            return True
        result = node.doit()
        if result.has(*_REPEATED) and not result.free_symbols:
            return self._value(result) is not None
        self._is_result = True
        try:
            return self.is_finite(result)
        finally:
            self._is_result = False


def _not_to_be_zero(node: Any) -> list[Any]:
    """What must differ from zero for a function to be finite; nothing if that is not known."""
    first = node.args[0]
    if isinstance(node, sympy.log):
        return [first, *(part for base in node.args[1:] for part in (base, base - 1))]
    if isinstance(node, sympy.Mod):
        return [node.args[1]]
    pole = _POLES.get(type(node))
    return [pole(first, evaluate=False)] if pole is not None else []


def _is_nothing(part: Any) -> bool:
    return bool(part == 0) or (isinstance(part, sympy.Float) and part._prec < _UNSURE_BITS)
