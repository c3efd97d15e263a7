"""Comparing equations of which math-verify finds no solutions: to it, all of these are the same."""

from __future__ import annotations

from typing import Any

import sympy
from latex2sympy2_extended.latex2sympy2 import is_expr_of_only_symbols
from math_verify.grader import is_equation, is_relation, take_first_relation
from sympy.core.function import AppliedUndef

from aspo_megatron.rewards.mathematics.compare.values import names_of, value_at

_DIGITS = 30
_TRIED = 4
_SAME = 1e-20
_UNDONE = (sympy.Integral, sympy.Limit, sympy.Derivative, sympy.Sum, sympy.Product)


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


def tells_value(reference: Any, answer: Any, text: str, question: str) -> bool:
    r"""Whether an equation gives its last side as the value of something: `x=5`, `f(2)=5`, `2+3=5`, not `x^2+y^2=5`.

    Any left side does that the question has, without the equation itself; and all that is no equation tells a value.

    Args:
        reference: what math-verify has read; if that is an equation or a relation, equations are compared with it.
        answer: the same.
        text: the answer as it is written.
        question: the problem.
    """
    if isinstance(answer, sympy.FiniteSet | sympy.Tuple):
        if any(map(is_relation, getattr(reference, "args", ()))):
            return True
        return all(tells_value(reference, each, "", question) for each in answer.args)
    if is_equation(reference) and not is_relation(answer):
        return _is_value_of(take_first_relation(reference).lhs)  # of x+y=5 the right side alone says nothing
    if not is_equation(answer) or is_relation(reference):
        return True
    if "=" in text and len(set(text.split("="))) == 1:  # as 1 = 1
        return False
    relation = take_first_relation(answer)
    left, asked = text.partition("=")[0], "".join(question.replace("$", " ").split())
    is_asked = bool(left) and left in asked and text not in asked
    return is_asked or _is_value_of(relation.lhs) or _is_identity(relation)


def _is_value_of(left: Any) -> bool:
    """Whether what equals a side is the value of something: of a number or a name."""
    return not left.free_symbols or _is_name(left)


def _is_identity(equation: Any) -> bool:
    """Whether both sides, written in different ways, have the same value at several points."""
    if equation.lhs.has(*_UNDONE) or equation.rhs.has(*_UNDONE) or _shape(equation.lhs) == _shape(equation.rhs):
        return False
    names = names_of(equation)
    try:
        values = [value_at(equation.lhs - equation.rhs, names, point, _DIGITS) for point in range(_TRIED)]
    except Exception:  # Whatever cannot be evaluated is not known to be the same.
        return False
    return all(value is not None and abs(value) < _SAME for value in values)


def _is_name(side: Any) -> bool:
    """Whether a side is made of variables alone by products and quotients, or is a function or a length of them."""
    if isinstance(side, sympy.Abs | AppliedUndef):
        return True
    return bool(is_expr_of_only_symbols(side)) and not side.has(sympy.Add) and side.atoms(sympy.Number) <= {-1}


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
            first, second = (value_at(each.lhs - each.rhs, names, point, _DIGITS) for each in (one, other))
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
