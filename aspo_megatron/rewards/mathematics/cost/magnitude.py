"""Upper bounds on the numbers that computing a formula would make, found without making them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

_HUGE = 18.0
LOG_2 = math.log10(2)
_DEGREE_COSTS = 200.0
_LOW_DEGREE = 4.0
_SMALL_BASE = 4.0


@dataclass(frozen=True)
class Bound:
    """What the value of a part of a formula cannot exceed.

    `digits` is the logarithm to base 10 of the largest numerator, denominator or coefficient; `terms` and `degree`
    are those of the expanded polynomial (a number has degree 0); `whole` says that no fraction is in it. `names` are
    the variables of what is a polynomial in them, None of what may be none; `base` is the number of digits of the
    number that this one is a whole power of.
    """

    digits: float = 0.0
    terms: float = 1.0
    degree: float = 0.0
    whole: bool = True
    names: frozenset[str] | None = None
    base: float = math.inf

    @property
    def most(self) -> float:
        """What a number within this bound is at most, itself at most 10^18: an exponent, or so many terms of a sum."""
        return float(10 ** min(self.digits, _HUGE))

    @property
    def is_low(self) -> bool:
        """Whether a polynomial within this bound is summed by a formula, in no time that depends on how many terms."""
        return self.whole and self.degree <= _LOW_DEGREE


@dataclass(frozen=True)
class Size:
    """How much there is to compute: the largest bounds within a formula, and counts of what takes time.

    `roots` is the largest number of digits under a root; `nesting` the depth of brackets and indices, `braces` that of
    braces; `costly` counts integrals, limits and long sums, with the functions that are in the formula then; `slow`
    those of no form that is known to be quick; `solving` is what makes a relation hard to solve.
    """

    digits: float = 0.0
    terms: float = 1.0
    roots: float = 0.0
    tokens: float = 0.0
    nesting: float = 0.0
    braces: float = 0.0
    cells: float = 0.0
    unions: float = 0.0
    costly: float = 0.0
    slow: float = 0.0
    solving: float = 0.0

    def fits(self, limit: Size) -> bool:
        """Whether nothing exceeds the limit."""
        return all(getattr(self, field.name) <= getattr(limit, field.name) for field in fields(self))

    def join(self, other: Size) -> Size:
        """The larger of each."""
        return Size(*(max(getattr(self, field.name), getattr(other, field.name)) for field in fields(self)))

    def grown(self, factor: float) -> Size:
        """So many times as much of each."""
        return Size(*(factor * getattr(self, field.name) for field in fields(self)))


SYMBOL = Bound(degree=1.0)
CONSTANT = Bound(digits=1.0, whole=False)
"""Such as e: powers of it are counted as those of 10."""


class Arithmetic:
    """Bounds of what operations make; notes the largest ones."""

    def __init__(self) -> None:
        self.digits = self.roots = 0.0
        self.terms = 1.0

    def note(self, bound: Bound) -> Bound:
        """The same bound, which may be the largest so far; in one variable no more terms than the degree gives."""
        if bound.degree and bound.names is not None and len(bound.names) == 1:
            bound = replace(bound, terms=min(bound.terms, bound.degree + 1))
        self.digits, self.terms = max(self.digits, bound.digits), max(self.terms, bound.terms)
        return bound

    def plus(self, left: Bound, right: Bound) -> Bound:
        """Of a sum or difference."""
        low, high = sorted((left.digits, right.digits))
        whole = left.whole and right.whole
        digits = high + math.log10(1 + 10 ** max(low - high, -_HUGE)) if whole else low + high + LOG_2
        symbolic = left.degree or right.degree
        terms = left.terms + right.terms if symbolic else 1.0
        return self.note(Bound(digits, terms, max(left.degree, right.degree), whole, _names(left, right)))

    def times(self, left: Bound, right: Bound) -> Bound:
        """Of a product."""
        if left == Bound():
            return self.note(right)
        terms = left.terms * right.terms
        degree = left.degree + right.degree
        return self.note(
            Bound(left.digits + right.digits, terms, degree, left.whole and right.whole, _names(left, right))
        )

    def over(self, left: Bound, right: Bound) -> Bound:
        """Of a quotient."""
        if left.whole and right.whole and not left.degree and not right.degree:
            return self.note(Bound(max(left.digits, right.digits), whole=False))
        names = left.names if not right.degree else None
        return replace(self.times(left, right), whole=False, names=names)

    def power(self, base: Bound, exponent: Bound) -> Bound:
        """Of a power; a fraction as exponent is a root."""
        if not exponent.whole:
            self._root_of(base)
        count = exponent.most
        digits = base.digits * count if base.digits else 0.0
        degree = base.degree * count + exponent.degree
        terms = _multisets(base.terms, count) if base.degree else 1.0
        whole = base.whole and exponent.whole
        names = base.names if exponent.whole and not exponent.degree else None
        number = min(base.base, base.digits) if whole and not degree else math.inf
        return self.note(Bound(digits, terms * exponent.terms, degree, whole, names, number))

    def _root_of(self, number: Bound) -> None:
        """Of powers of a small number it is told at once, others are searched for factors."""
        if number.base > _SMALL_BASE:
            self.roots = max(self.roots, number.digits)

    def root(self, base: Bound, index: Bound) -> Bound:
        """Of a root; its index has no bound of its own but in `digits`."""
        self._root_of(base)
        return self.note(Bound(base.digits + index.digits, base.terms, base.degree + index.degree, whole=False))

    def factorial(self, number: Bound) -> Bound:
        """Of n!, or of the gamma function."""
        count = number.most
        if number.degree:
            return self.note(replace(number, terms=number.terms + count, digits=number.digits * count, names=None))
        return self.note(Bound(math.lgamma(count + 2) / math.log(10), whole=number.whole))

    def binomial(self, upper: Bound, lower: Bound) -> Bound:
        """Of a binomial coefficient."""
        if lower.degree and not upper.degree:
            return self.factorial(upper)  # A gamma function of it is in there.
        if upper.degree or lower.degree:
            return self.note(Bound(upper.digits * lower.most, lower.most, upper.degree * lower.most + lower.degree))
        product = lower.most * max(upper.digits, 1.0)
        whole = upper.whole and lower.whole
        # With what is no whole number it is a gamma function, or a polynomial of as high a degree.
        digits = min(product, upper.most * LOG_2) if whole else max(product, upper.most, lower.most * _DEGREE_COSTS)
        return self.note(Bound(digits, whole=whole))

    def function(self, argument: Bound) -> Bound:
        """Of a function that is left as it is, or has a small value: a sine, a logarithm."""
        return Bound(math.log10(1 + argument.digits) + 1, degree=min(argument.degree, 1.0), whole=False)

    def repeated(self, body: Bound, count: float, *, product: bool, at_once: bool) -> Bound:
        """Of a sum or product of so many terms; a sum `at_once` is never written out."""
        digits = body.digits + math.log10(max(count, 1.0)) if body.whole and not product else body.digits * count
        terms = _multisets(body.terms, count) if product else body.terms * (1.0 if at_once else count)
        terms = terms if body.degree else 1.0
        return self.note(Bound(digits, terms, body.degree * (count if product else 1.0), body.whole))


def join(*bounds: Bound) -> Bound:
    """Of a list, whose members do not meet."""
    if len(bounds) == 1:
        return bounds[0]
    return Bound(
        max((bound.digits for bound in bounds), default=0.0),
        max((bound.terms for bound in bounds), default=1.0),
        max((bound.degree for bound in bounds), default=0.0),
        all(bound.whole for bound in bounds),
    )


def _names(*bounds: Bound) -> frozenset[str] | None:
    """The variables of a polynomial of polynomials."""
    found = [bound.names for bound in bounds if bound.degree]
    return None if None in found else frozenset(name for names in found if names is not None for name in names)


def _multisets(kinds: float, count: float) -> float:
    """Terms of the expanded power of a sum: how many ways there are to take `count` of `kinds`."""
    if kinds <= 1:
        return 1.0
    rest = min(kinds, 1e9) - 1
    ways = math.lgamma(count + rest + 1) - math.lgamma(count + 1) - math.lgamma(rest + 1)
    return math.exp(min(ways, 300.0))


def number(token: str) -> Bound:
    """Of a number as it is written."""
    mantissa, _, exponent = token.lower().partition("e")
    whole = mantissa.replace(",", "").partition(".")[0]
    digits = _digits(whole) + (min(float(exponent.lstrip("+-")[:30]), 1e30) if exponent else 0.0)
    return Bound(digits, whole="." not in token and not exponent)


def _digits(whole: str) -> float:
    """Logarithm to base 10 of a number in digits, or a little more."""
    digits = whole.lstrip("0")
    if not digits:
        return 0.0
    return math.log10(int(digits[:15])) + len(digits[15:]) + (1e-9 if len(digits) > 15 else 0.0)
