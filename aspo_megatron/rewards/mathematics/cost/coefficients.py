"""Polynomials in one variable, by their coefficients."""

from __future__ import annotations

from fractions import Fraction
from math import isqrt

Coefficients = tuple[Fraction | None, ...]
"""Of a polynomial in one variable, from the lowest power on; None for what is no fraction."""


def quotient(one: Fraction | None, other: Fraction | None) -> Fraction | None:
    """One over the other; None if that is not known or none."""
    if one == 0:
        return one
    return one / other if one is not None and other else None


def plus(one: Coefficients, other: Coefficients) -> Coefficients:
    """Their sum."""
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    shorter = (*shorter, *[Fraction(0)] * (len(longer) - len(shorter)))
    return tuple(None if a is None or b is None else a + b for a, b in zip(longer, shorter, strict=True))


def product(one: Coefficients, other: Coefficients) -> Coefficients:
    """Their product, multiplied out."""
    found: list[Fraction | None] = [Fraction(0)] * (len(one) + len(other) - 1)
    for i, a in enumerate(one):
        for j, b in enumerate(other):
            before = found[i + j]
            if a == 0 or b == 0:
                continue
            found[i + j] = None if a is None or b is None or before is None else before + a * b
    return tuple(found)


def has_rational_roots(below: Coefficients) -> bool:
    """Whether its roots are fractions, of a polynomial of the second degree at most, with fractions."""
    c, b, a = (*(each or Fraction(0) for each in below), Fraction(0), Fraction(0))[:3]
    square = b * b - 4 * a * c
    product = square.numerator * square.denominator
    return square >= 0 and isqrt(product) ** 2 == product
