"""Comparing equations of which math-verify finds no solutions: to it, all of these are the same."""

from __future__ import annotations

from typing import Any

import sympy
from math_verify.grader import is_equation

from aspo_megatron.rewards.values import evaluate, names_of

_DIGITS = 30
_TRIED = 4
_SAME = 1e-20


def is_told_apart(reference: Any, answer: Any) -> bool:
    """Whether an answer that math-verify calls right is so for another reason than that neither has solutions.

    Each equation of the reference that has none must be in the answer, the same but for a factor, or with its sides
    exchanged.

    Args:
        reference: what math-verify has read.
        answer: the same.
    """
    equations = _equations(reference)
    given = _equations(answer)
    if not equations or not (given or answer == sympy.EmptySet):
        return True
    return all(any(_same(one, other) for other in given) or _has_solutions(one) for one in equations)


def _equations(node: Any) -> list[Any]:
    if isinstance(node, sympy.Eq):
        return [node]
    if is_equation(node) or isinstance(node, sympy.FiniteSet | sympy.Tuple):
        return [found for each in node.args for found in _equations(each)]
    return []


def _has_solutions(equation: Any) -> bool:
    try:
        return bool(sympy.solve(equation, equation.free_symbols))
    except Exception:  # What is not known to have any has none: it may be compared in no other way.
        return False


def _same(one: Any, other: Any) -> bool:
    """Whether the sides are the same, or their difference but for a factor, as values at several points tell."""
    if {_shape(one.lhs), _shape(one.rhs)} == {_shape(other.lhs), _shape(other.rhs)}:
        return True
    names = names_of(one, other)
    factors, values = [], []
    try:
        for point in range(_TRIED):
            first, second = (evaluate(each.lhs - each.rhs, names, point, _DIGITS) for each in (one, other))
            if first is None or second is None or min(abs(first), abs(second)) < _SAME:
                return False
            factors.append(first / second)
            values.append(first)
    except Exception:  # Whatever cannot be evaluated is not known to be the same.
        return False
    says_nothing = all(abs(value - values[0]) < _SAME for value in values)  # as 0 = 1 and x = x + 1
    return not says_nothing and all(abs(factor / factors[0] - 1) < _SAME for factor in factors)


def _shape(node: Any) -> str:
    """An expression as it is written, but for the order of what is added and multiplied."""
    parts = [_shape(each) for each in node.args]
    if isinstance(node, sympy.Add | sympy.Mul):
        parts.sort()
    return f"{type(node).__name__}({', '.join(parts)})" if parts else str(node)
