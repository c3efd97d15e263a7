"""How much there is to compute in a formula that SymPy has read and not evaluated yet."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import reduce
from typing import Any

import sympy
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

from aspo_megatron.rewards.mathematics.cost.closed_forms import is_quick
from aspo_megatron.rewards.mathematics.cost.magnitude import CONSTANT, LOG_2, SYMBOL, Arithmetic, Bound, Size, join

_MOST_NODES = 5000
_ROUNDED_TERMS = 40
_FUNCTIONS_IN_TERMS = 100
_FEW = 12
_POWER_OF_SYMBOLS = 4
_ROUNDED_FACTORS = 5
_SYMBOLS_TO_SOLVE = 4
_DEGREE_TO_SOLVE = 3
_DEGREE_IN_ONE = 6
_DEGREE_WITH_FRACTIONS = 3
_TERMS_TO_SOLVE = 30
_HARD, _HARDER, _HARDEST = 0.5, 1.0, 2.0
_ROUNDING = (
    *(sympy.floor, sympy.ceiling, sympy.Abs, sympy.Max, sympy.Min, sympy.Mod, sympy.sign, sympy.re, sympy.im),
    *(sympy.arg, sympy.conjugate),
)
_RATIONAL = (sympy.Rational, sympy.Symbol, sympy.Add, sympy.Mul, sympy.Pow, sympy.Tuple)


def sympy_size(formula: Any) -> Size:
    """The largest numbers and numbers of terms that evaluating a formula makes, and what else would take long.

    In `digits`, `terms`, `roots`, `slow` and `solving`.

    Args:
        formula: what math-verify has read: an expression, a set, a relation, a matrix; a text counts as nothing.
    """
    walk = _Walk()
    try:
        walk.bound(formula)
    except Exception:  # SymPy raises many things when it is asked about odd formulas, such as sec(pi/2)
        return Size(digits=math.inf)
    found = walk.arithmetic
    return Size(found.digits, found.terms, found.roots, slow=walk.slow, solving=walk.solving)


class _Walk:
    """Goes through a tree from its leaves to its root."""

    def __init__(self) -> None:
        self.arithmetic = Arithmetic()
        self._left = _MOST_NODES
        self._symbol = SYMBOL
        self._rounded = 0
        self.slow = self.solving = 0.0

    def bound(self, node: Any) -> Bound:
        """The bound of a node, from those of its arguments."""
        self._left -= 1
        if self._left < 0:
            return self.arithmetic.note(Bound(digits=math.inf))
        if isinstance(node, sympy.Sum | sympy.Product):
            return self._repeated(node)
        if isinstance(node, sympy.MatrixBase):
            return join(*map(self.bound, node.flat()))
        if not isinstance(node, sympy.Basic):
            return Bound()
        if not node.args:
            return self.arithmetic.note(self._leaf(node))
        if isinstance(node, sympy.Integral | sympy.Limit):
            self.slow += not is_quick(node)
        if isinstance(node, sympy.Pow | sympy.MatPow) and getattr(node.base, "is_Matrix", False):
            most = _POWER_OF_SYMBOLS if node.base.free_symbols else math.inf
            self.slow += not (isinstance(node.exp, sympy.Integer) and abs(node.exp) <= most)
        is_rounding = isinstance(node, _ROUNDING)
        self._rounded += is_rounding
        bounds = [self.bound(argument) for argument in node.args]
        self._rounded -= is_rounding
        if isinstance(node, Relational):
            self.solving += _work_of_solving(node, join(*bounds))
        return self._operation(node, bounds)

    def _leaf(self, node: Any) -> Bound:
        if isinstance(node, sympy.Rational):
            return Bound(math.log10(max(abs(node.p), node.q)), whole=node.q == 1)
        if isinstance(node, sympy.Float):
            _, mantissa, exponent, bits = node._mpf_
            return Bound(abs(exponent + bits) * LOG_2 if mantissa else 0.0, whole=False)
        return CONSTANT if node.is_NumberSymbol else replace(self._symbol, names=frozenset([str(node)]))

    def _operation(self, node: Any, bounds: list[Bound]) -> Bound:
        first, *others = bounds
        arithmetic = self.arithmetic
        bound = join(*bounds)
        match node:
            case sympy.Add() | sympy.MatAdd():
                bound = reduce(arithmetic.plus, others, first)
            case sympy.Mul() | sympy.MatMul():
                bound = self._product(node, bounds)
            case sympy.Pow() | sympy.MatPow():
                base = first if node.exp.is_nonnegative else replace(first, names=None)
                exponent = others[0]
                if isinstance(node.exp, sympy.Rational) and node.exp.q > 1:  # A root makes no number larger.
                    exponent = replace(exponent, digits=math.log10(abs(node.exp.p)))
                bound = arithmetic.power(base, exponent)
            case sympy.exp() | sympy.sinh() | sympy.cosh():
                bound = arithmetic.power(CONSTANT, first)
            case sympy.factorial() | sympy.gamma():
                bound = arithmetic.factorial(first)
            case sympy.binomial():
                bound = arithmetic.binomial(first, others[0])
            case sympy.Abs() | sympy.floor() | sympy.ceiling():
                bound = first
            case sympy.Function():
                bound = arithmetic.function(bound)
        return bound

    def _product(self, node: Any, bounds: list[Bound]) -> Bound:
        """A product, with what has a negative power as its denominator."""
        parts = [Bound(), Bound()]
        for factor, bound in zip(node.args, bounds, strict=True):
            is_below = isinstance(factor, sympy.Pow) and isinstance(factor.exp, sympy.Rational) and factor.exp.p < 0
            parts[is_below] = self.arithmetic.times(parts[is_below], bound)
        return self.arithmetic.over(*parts) if parts[1] != Bound() else parts[0]

    def _repeated(self, node: Any) -> Bound:
        """A sum or product, over one or several variables."""
        outer = self._symbol
        ranges = [join(*map(self.bound, limits[1:])) for limits in node.limits]
        count = math.prod(bound.most for bound in ranges)
        self._symbol = Bound(max(outer.digits, math.log10(max(count, 1.0))), degree=1.0)
        body = self.bound(node.function)
        self._symbol = outer
        self.slow += not self._is_quick(node, count) or (count > _FEW and body.terms > _FEW)
        at_once = body.is_low and isinstance(node, sympy.Sum) and bool(node.function.is_polynomial())
        return self.arithmetic.repeated(body, count, product=isinstance(node, sympy.Product), at_once=at_once)

    def _is_quick(self, node: Any, count: float) -> bool:
        """Whether a sum or product takes no long, of so many terms if its range is of numbers."""
        ends = [end for limits in node.limits for end in limits[1:]]
        if not all(end.is_number and end.is_finite for end in ends):
            return is_quick(node)
        if node.free_symbols and node.function.has(sympy.binomial):
            return False  # It is taken for a hypergeometric function.
        inner = list(sympy.preorder_traversal(node.function))
        functions = sum(isinstance(each, sympy.Function) or _is_root(each) for each in inner)
        if not self._rounded:
            return bool(functions < 2 or count * functions <= _FUNCTIONS_IN_TERMS)
        is_rational = not functions and all(isinstance(each, _RATIONAL) for each in inner)
        if isinstance(node, sympy.Product):
            return count <= _ROUNDED_FACTORS * (4 if is_rational else 1)
        return is_rational or (count <= _ROUNDED_TERMS and not node.function.has(sympy.NumberSymbol))


def _is_root(node: Any) -> bool:
    return isinstance(node, sympy.Pow) and not node.exp.is_integer and not node.exp.free_symbols


def _work_of_solving(relation: Any, bound: Bound) -> float:
    """How hard a relation is to solve for its variables: what is no polynomial in them, and a high degree."""
    symbols = len(relation.free_symbols)
    allowed = _DEGREE_TO_SOLVE if symbols > 1 else _DEGREE_IN_ONE
    work = max(0.0, bound.degree - allowed) * _HARDEST + max(0, symbols - _SYMBOLS_TO_SOLVE)
    work += bound.terms // _TERMS_TO_SOLVE
    below = 0
    for node in sympy.preorder_traversal(relation):
        if not getattr(node, "free_symbols", None):
            continue
        match node:
            case sympy.Pow(args=(_, sympy.Integer() as exponent)):
                below += exponent.p < 0
            case sympy.Pow(args=(_, exponent)):
                work += _HARDER if exponent == sympy.Rational(1, 2) else _HARDEST
            case sympy.Abs():
                work += _HARD
            case AppliedUndef():
                pass
            case sympy.Function() | sympy.Integral() | sympy.Sum() | sympy.Product() | sympy.Limit():
                work += _HARDEST
    return work + (_HARD * below + max(0.0, bound.degree + below - _DEGREE_WITH_FRACTIONS) if below else 0.0)
