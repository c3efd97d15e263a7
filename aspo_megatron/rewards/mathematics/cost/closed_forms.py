"""Sums, integrals and limits that are known to be quick to evaluate, told from the tree that was read of them.

SymPy finds the others by trying many methods, which takes seconds. What is quick here takes a tenth of one at most.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from typing import Any

import sympy

from aspo_megatron.rewards.mathematics.cost import coefficients
from aspo_megatron.rewards.mathematics.cost.coefficients import Coefficients

_HIGHEST_DEGREE = 20
_MOST_TERMS = 8
_MOST_NODES = 12
_NODES_OF_A_LIMIT = 30
_FUNCTIONS_OF_A_LIMIT = 2
_DEGREE_OF_A_SUM = 12
_DEGREE_BELOW = 2
_INTEGRANDS = {
    ("exponential",): (1, True, True),
    ("bell",): (1, True, True),
    ("wave",): (1, False, True),
    ("wave", "wave"): (0, False, True),
    ("logarithm",): (2, False, False),
    ("root",): (3, False, False),
}
"""By what is in a product: the degree of the polynomial before it, whether to infinity, whether from below zero."""

_SUMMANDS = {("exponential",): (2, True), ("factorial",): (1, False), ("exponential", "factorial"): (1, False)}
"""The same for sums: the degree, and whether they may end."""

_INVERSE = {"exponential": "exponential", "gamma": "factorial", "sign": "sign"}
_IN_LIMITS = (sympy.sin, sympy.cos, sympy.tan, sympy.exp, sympy.log)
_PLAIN = (sympy.Rational, sympy.NumberSymbol, sympy.Symbol, sympy.Add, sympy.Mul, sympy.Pow)
_NO_VALUES = (sympy.oo, -sympy.oo, sympy.zoo, sympy.nan, sympy.AccumBounds)
_UNDONE = (sympy.Integral, sympy.Limit, sympy.Sum)
_ONE: Coefficients = (Fraction(1),)


class _UnknownError(Exception):
    """It is of no form that is known to be quick."""


@dataclass(frozen=True)
class _Form:
    """A product: a polynomial, over a polynomial, times what `kinds` name; `terms` of them with a common `kinds`."""

    above: Coefficients = _ONE
    below: Coefficients = _ONE
    kinds: tuple[str, ...] = ()

    @property
    def degree(self) -> int:
        return len(self.above) - 1

    @property
    def degree_below(self) -> int:
        return len(self.below) - 1

    @property
    def is_exact(self) -> bool:
        """Whether all coefficients are fractions."""
        return None not in self.above and None not in self.below

    @property
    def is_over_a_power(self) -> bool:
        """Whether the denominator is a power of the variable."""
        return not any(self.below[:-1])


def is_quick(node: Any) -> bool:
    """Whether a sum, an integral or a limit is of a form known to be evaluated quickly.

    Args:
        node: a Sum, an Integral or a Limit of SymPy, not evaluated. Of a sum the range is not only of numbers.
    """
    try:
        match node:
            case sympy.Limit():
                return _is_quick_limit(node)
            case sympy.Integral():
                return all(_is_quick_integral(node.function, *limits) for limits in node.limits)
            case sympy.Sum():
                return _is_quick_endless_sum(node)
    except _UnknownError:
        pass
    return False


def evaluated(expression: Any) -> Any:
    """An expression with the values of the integrals, limits and endless sums in it that are quick to evaluate.

    What has no finite value stays as it is: SymPy takes limits from the right, where there may be none.

    Args:
        expression: what math-verify has read. What is no expression stays as it is.
    """
    if not isinstance(expression, sympy.Expr) or not expression.has(*_UNDONE):
        return expression
    found = {node: node.doit() for node in expression.atoms(*_UNDONE) if is_quick(node)}
    return expression.xreplace({node: value for node, value in found.items() if not value.has(*_NO_VALUES)})


def _is_quick_endless_sum(node: Any) -> bool:
    if len(node.limits) != 1:
        return False
    variable, *ends = node.limits[0]
    return all(map(_is_end, ends)) and _is_quick_sum(_form(node.function, variable), ends[-1])


def _is_end(end: Any) -> bool:
    return _size(end) <= _MOST_NODES and all(
        isinstance(each, _PLAIN) or each is sympy.oo or each is -sympy.oo for each in sympy.preorder_traversal(end)
    )


def _size(node: Any) -> int:
    return sum(1 for _ in sympy.preorder_traversal(node))


def _is_quick_limit(node: Any) -> bool:
    body, _, point, _ = node.args
    nodes = list(sympy.preorder_traversal(body))
    functions = [each for each in nodes if isinstance(each, sympy.Function)]
    return (
        len(nodes) <= _NODES_OF_A_LIMIT
        and len(functions) <= _FUNCTIONS_OF_A_LIMIT
        and _is_end(point)
        and all(isinstance(each, (*_PLAIN, *_IN_LIMITS)) for each in nodes)
        and not any(inner.has(sympy.Function) for each in functions for inner in each.args)
        and all(each.exp.is_Rational or not each.has(sympy.Function) for each in nodes if isinstance(each, sympy.Pow))
    )


def _is_quick_integral(body: Any, variable: Any, *ends: Any) -> bool:
    """Of each term of the body."""
    if not all(map(_is_end, ends)):
        return False
    terms = body.args if isinstance(body, sympy.Add) else (body,)
    forms = [_form(term, variable) for term in terms]
    is_endless = any(end.is_infinite or end in (sympy.oo, -sympy.oo) for end in ends)
    if sum(form.kinds != () or form.degree_below > 0 for form in forms) > 1 or len(forms) > _MOST_TERMS:
        return False
    return all(_is_quick_integrand(form, ends, is_endless=is_endless) for form in forms)


def _is_quick_integrand(form: _Form, ends: tuple[Any, ...], *, is_endless: bool) -> bool:
    is_positive = all(end.is_positive or (end.is_zero and form.kinds) for end in ends)
    if form.kinds:
        degree, may_be_endless, may_be_negative = _INTEGRANDS.get(form.kinds, (-1, False, False))
        is_inside = (may_be_endless or not is_endless) and (may_be_negative or is_positive)
        return form.degree <= degree and form.degree_below == 0 and is_inside
    if form.degree_below == 0:
        return not is_endless
    if form.is_over_a_power:
        return form.is_exact and is_positive and (form.degree == 0 or not ends)
    return form.is_exact and form.degree_below <= _DEGREE_BELOW and form.degree <= 1


def _is_quick_sum(form: _Form, end: Any) -> bool:
    is_endless = end is sympy.oo
    has_fractions = form.is_exact and form.degree_below <= _DEGREE_BELOW and coefficients.has_rational_roots(form.below)
    if form.kinds == ("sign",):
        return form.degree == 0 and has_fractions
    if form.kinds:
        degree, is_finite_too = _SUMMANDS.get(form.kinds, (-1, False))
        return form.degree <= degree and form.degree_below == 0 and (is_endless or is_finite_too)
    if form.degree_below == 0:
        return not is_endless and form.degree <= _DEGREE_OF_A_SUM
    return form.degree == 0 and form.is_exact and (form.is_over_a_power or has_fractions)


def _form(node: Any, variable: Any) -> _Form:
    """The form of an expression in a variable; raises _UnknownError if it has none."""
    if not node.has(variable):
        return _Form(above=(_constant(node),))
    match node:
        case sympy.Symbol():
            form = _Form(above=(Fraction(0), Fraction(1)))
        case sympy.Add():
            form = _Form(above=reduce(coefficients.plus, (_polynomial(each, variable) for each in node.args)))
        case sympy.Mul():
            form = reduce(_times, (_form(each, variable) for each in node.args))
        case sympy.Pow():
            form = _power(node.base, node.exp, variable)
        case sympy.Function():
            form = _function(node, variable)
        case _:
            raise _UnknownError
    return form


def _function(node: Any, variable: Any) -> _Form:
    argument, *base = node.args
    match node:
        case sympy.exp():
            return _exponential(sympy.E, argument, variable)
        case sympy.factorial() if argument == variable:
            return _Form(kinds=("gamma",))
        case sympy.sin() | sympy.cos() if len(_polynomial(argument, variable)) == 2:
            return _Form(kinds=("wave",))
        case sympy.log() if base in ([], [sympy.E]) and len(_polynomial(argument, variable)) == 2:
            return _Form(kinds=("logarithm",))
    raise _UnknownError


def _constant(node: Any) -> Fraction | None:
    """A fraction as it is; None for another constant that is short."""
    if isinstance(node, sympy.Rational):
        return Fraction(int(node.p), int(node.q))
    if _size(node) > _MOST_NODES or not all(isinstance(each, _PLAIN) for each in sympy.preorder_traversal(node)):
        raise _UnknownError
    return _fraction(node)


def _fraction(node: Any) -> Fraction | None:
    match node:
        case sympy.Rational():
            return Fraction(int(node.p), int(node.q))
        case sympy.Add() | sympy.Mul():
            parts = [_fraction(each) for each in node.args]
            known = [part for part in parts if part is not None]
            combine: Callable[[Fraction, Fraction], Fraction] = (
                Fraction.__add__ if isinstance(node, sympy.Add) else Fraction.__mul__
            )
            return reduce(combine, known) if len(known) == len(parts) else None
        case sympy.Pow(args=(base, sympy.Integer() as exponent)) if abs(exponent) <= _HIGHEST_DEGREE:
            value = _fraction(base)
            return value ** int(exponent) if value else None
    return None


def _polynomial(node: Any, variable: Any) -> Coefficients:
    form = _form(node, variable)
    if form.kinds or form.degree_below:
        raise _UnknownError
    return _scaled(form)


def _scaled(form: _Form) -> Coefficients:
    """A polynomial over a constant."""
    (below,) = form.below
    return form.above if below == 1 else tuple(coefficients.quotient(each, below) for each in form.above)


def _times(one: _Form, other: _Form) -> _Form:
    if max(one.degree + other.degree, one.degree_below + other.degree_below) > _HIGHEST_DEGREE:
        raise _UnknownError
    above, below = coefficients.product(one.above, other.above), coefficients.product(one.below, other.below)
    if sum(each != 0 for each in (*above, *below)) > _MOST_TERMS:
        raise _UnknownError
    return _Form(above, below, tuple(sorted(one.kinds + other.kinds)))


def _power(base: Any, exponent: Any, variable: Any) -> _Form:
    if exponent.has(variable):
        if base.has(variable):
            raise _UnknownError
        return _exponential(base, exponent, variable)
    if not isinstance(exponent, sympy.Rational):
        exponent = _fraction(exponent)
        if exponent is None:
            raise _UnknownError
    power = Fraction(int(exponent.numerator), int(exponent.denominator))
    form = _form(base, variable)
    if power.denominator != 1:
        if base != variable or power.denominator > 3 or not 0 < power < 4:
            raise _UnknownError
        return _Form(kinds=("root",))
    if abs(power) > _HIGHEST_DEGREE:
        raise _UnknownError
    if power < 0:
        kinds = tuple(_INVERSE.get(kind, "none") for kind in form.kinds)
        form = _Form(above=form.below, below=form.above, kinds=kinds)
    return reduce(_times, [form] * abs(int(power)), _Form())


def _exponential(base: Any, exponent: Any, variable: Any) -> _Form:
    """A number or a symbol to the power of a polynomial of the first degree; e also of the second."""
    constant = base if isinstance(base, sympy.Symbol) else _constant(base)
    powers = _polynomial(exponent, variable)
    if len(powers) == 2:
        return _Form(kinds=("sign" if constant == -1 else "exponential",))
    if len(powers) == 3 and base is sympy.E and powers[1] == 0 and powers[2] is not None and powers[2] < 0:
        return _Form(kinds=("bell",))
    raise _UnknownError
