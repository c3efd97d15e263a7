"""How much there is to compute in a formula that SymPy has read and not evaluated yet."""

from __future__ import annotations

import math
from functools import reduce
from typing import Any

import sympy

from aspo_megatron.rewards.magnitude import CONSTANT, LOG_2, SYMBOL, Arithmetic, Bound, Size, join

_MOST_NODES = 5000


def sympy_size(formula: Any) -> Size:
    """The largest numbers and numbers of terms that evaluating a formula makes, in `digits`, `terms` and `roots`.

    Args:
        formula: what math-verify has read: an expression, a set, a relation, a matrix; a text counts as nothing.
    """
    walk = _Walk()
    try:
        walk.bound(formula)
    except RecursionError:
        return Size(digits=math.inf)
    found = walk.arithmetic
    return Size(found.digits, found.terms, found.roots)


class _Walk:
    """Goes through a tree from its leaves to its root."""

    def __init__(self) -> None:
        self.arithmetic = Arithmetic()
        self._left = _MOST_NODES
        self._symbol = SYMBOL

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
        return self._operation(node, [self.bound(argument) for argument in node.args])

    def _leaf(self, node: Any) -> Bound:
        if isinstance(node, sympy.Rational):
            return Bound(math.log10(max(abs(node.p), node.q)), whole=node.q == 1)
        if isinstance(node, sympy.Float):
            _, mantissa, exponent, bits = node._mpf_
            return Bound(abs(exponent + bits) * LOG_2 if mantissa else 0.0, whole=False)
        return CONSTANT if node.is_NumberSymbol else self._symbol

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
                bound = arithmetic.power(first, others[0])
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
        at_once = body.is_low and isinstance(node, sympy.Sum) and bool(node.function.is_polynomial())
        return self.arithmetic.repeated(body, count, product=isinstance(node, sympy.Product), at_once=at_once)
