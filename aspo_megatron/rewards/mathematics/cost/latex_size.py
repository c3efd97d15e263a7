"""How much there would be to compute in a formula in LaTeX, told from its text: in milliseconds, whatever it says.

This is no grammar. What may be read in several ways is taken in the way that makes the larger numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from aspo_megatron.rewards.mathematics.cost import latex_tokens as tokens
from aspo_megatron.rewards.mathematics.cost.magnitude import CONSTANT, SYMBOL, Bound, Size, join, number
from aspo_megatron.rewards.mathematics.cost.plain_latex import is_of_fractions, is_polynomial, is_whole

LIMIT = replace(
    Size(10_000, 2000, 1000, tokens=300, nesting=10, braces=20, cells=64, unions=12),
    costly=2.5,
    slow=0.5,
    solving=1.5,
)
"""A formula with more of something is no answer, unless the reference is about as large."""

_LONG_SUM = 100.0
_LONG_PRODUCT = 5.5
_DIGITS_IN_A_MATRIX = 8.0
_ENDLESS = 10.0
_LARGEST_MATRIX = 16.0
_CELLS_OF_A_DETERMINANT = 8.0
_CELLS_OF_AN_INVERSE = 4.0
_MOST_TOKENS = 10_000


def latex_size(text: str) -> Size:
    """The size of a formula; of infinite `digits` if it cannot be told.

    Args:
        text: LaTeX, or a plain expression such as 2**3.
    """
    found = tokens.TOKEN.findall(text)
    if len(found) > _MOST_TOKENS:
        return Size(digits=math.inf)
    reader = _Reader(found)
    try:
        reader.read()
    except tokens.TooDeepError:
        return Size(digits=math.inf)
    return reader.size


class _Reader(tokens.Counter):
    """Adds up the sizes of what it goes through."""

    def __init__(self, found: list[str]) -> None:
        super().__init__(found)
        self._symbol = SYMBOL
        self._after_matrix = -1
        self._algebra = 0.0
        self._long_products = 0

    def read(self) -> None:
        """Go through all of it; brackets that nothing opened are passed over."""
        while self._peek():
            self._list()
            self._take()

    def _list(self) -> Bound:
        """Until a bracket closes: sums, with commas, relations and unions between them."""
        members = [self._sum()]
        while (token := self._peek()) and token not in tokens.CLOSERS:
            self._take()
            if token in tokens.UNIONS:
                self._count(unions=1)
            elif token in ("&", "\\\\"):
                self._count(cells=1)
            member = self._sum()
            members.append(self._arithmetic.binomial(members[-1], member) if token == "\\choose" else member)
        return join(*members)

    def _sum(self) -> Bound:
        bound = self._product(Bound())
        while self._peek() in tokens.SIGNS:
            bound = self._arithmetic.plus(bound, self._product(bound))
        return bound

    def _product(self, before: Bound) -> Bound:
        """Factors, after signs or none; `before` is the sum that they are a part of, so far."""
        bound, divide = Bound(), False
        while self._peek() in tokens.SIGNS:
            self._take()
        while (token := self._peek()) and token not in tokens.ENDS:
            if token in tokens.PASSED | tokens.OVER:
                self._take()
                divide = token in tokens.OVER
                while self._peek() in tokens.SIGNS:
                    self._take()
                continue
            factor = self._postfix(self._item(), bound, before)
            bound = self._arithmetic.over(bound, factor) if divide else self._arithmetic.times(bound, factor)
            divide = False
        return bound

    def _postfix(self, bound: Bound, product: Bound, total: Bound) -> Bound:
        """A factor with its powers, indices and factorials; of |9 + 9|^9 all that comes before the bar is in it."""
        while (token := self._peek()) in tokens.POSTFIXES:
            self._take()
            if token in tokens.POWERS:
                if self._after_matrix == self._next - 1:
                    self._count(costly=self._algebra / _CELLS_OF_AN_INVERSE)
                bound = self._power(bound, self._no_matrix)
            elif token == "!":
                bound = self._arithmetic.factorial(bound)
            elif token in ("_", "'"):
                bound = replace(bound, names=None)
                if token == "_":
                    self._index()
            elif token in tokens.BARS:
                bound = self._arithmetic.plus(total, self._arithmetic.times(product, bound))
        return bound

    def _power(self, base: Bound, read: Callable[[], Bound]) -> Bound:
        """A power, whose exponent is read; with a sign in that it may be no polynomial."""
        begin = self._next
        exponent = read()
        if tokens.SIGNS.intersection(self._tokens[begin : self._next]):
            base = replace(base, names=None)
        return self._arithmetic.power(base, exponent)

    def _no_matrix(self) -> Bound:
        """An exponent, or the argument of a function: of a matrix it would be a series."""
        begin = self._next
        bound = self._operand()
        if "\\begin" in self._tokens[begin : self._next]:
            self._count(costly=_ENDLESS)
        return bound

    def _operand(self) -> Bound:
        """What follows a power or a command: one item, to which the powers belong that follow it."""
        while self._peek() in tokens.SIGNS | tokens.PASSED:
            self._take()
        if not self._peek() or self._peek() in tokens.CLOSERS:
            return Bound()
        bound = self._item()
        if self._peek() in tokens.POWERS:
            self._take()
            self._deeper()
            bound = self._power(bound, self._operand)
            self._depth -= 1
        return bound

    def _index(self) -> Bound:
        """What stands below: counted as brackets are, as it takes the parser as long."""
        if not self._peek() or self._peek() in tokens.CLOSERS:
            return Bound()
        self._opened(1, 1)
        bound = self._item()
        self._opened(1, -1)
        return bound

    def _item(self) -> Bound:
        self._deeper()
        bound = self._read_item(self._take())
        self._depth -= 1
        return bound

    def _read_item(self, token: str) -> Bound:
        if token in tokens.BRACKETS:
            return self._group(token)
        if token in tokens.BARS:
            return Bound()
        if token[0] == "." or token[0].isdecimal():
            return self._arithmetic.note(number(token))
        if token[0] == "\\":
            return self._command(token)
        return CONSTANT if token in "eEπ" else replace(self._symbol, names=frozenset(token))

    def _group(self, opener: str) -> Bound:
        kind, before = tokens.BRACKETS[opener], self._long_products
        self._opened(kind, 1)
        bound = self._list()
        is_matrix = self._after_matrix == self._next
        self._take()
        self._after_matrix = self._next if is_matrix else self._after_matrix
        self._opened(kind, -1)
        if opener in tokens.ROUNDING and self._long_products > before:
            self._count(costly=_ENDLESS)  # They are multiplied out.
        return bound

    def _matrix(self) -> Bound:
        """An environment to its end; a determinant is computed as it is read."""
        name, before = self._skip_group(), self._size.cells
        bound = self._list()
        cells = self._size.cells - before + 1
        # Numbers take no time worth counting.
        self._algebra = cells if bound.degree or not bound.whole else 0.0
        if name == "vmatrix":
            bound = self._determinant(bound, cells)
        self._take()
        self._skip_group()
        self._after_matrix = self._next
        return bound

    def _determinant(self, bound: Bound, cells: float) -> Bound:
        self._count(costly=self._algebra / _CELLS_OF_A_DETERMINANT)
        return self._arithmetic.power(bound, Bound(math.log10(cells) / 2))

    def _command(self, name: str) -> Bound:
        bound = CONSTANT if name == "\\pi" else self._symbol
        if name in tokens.FRACTIONS:
            bound = self._arithmetic.over(self._argument(), self._argument())
        elif name in tokens.BINOMIALS:
            bound = self._arithmetic.binomial(self._argument(), self._argument())
        elif name == "\\sqrt":
            index = self._item() if self._peek() == "[" else Bound()
            bound = self._arithmetic.root(self._argument(), index)
        elif name in tokens.REPEATED:
            bound = self._repeated(name)
        elif name in tokens.FUNCTIONS:
            bound = self._function(name)
        elif name == "\\begin":
            bound = self._matrix()
        elif name in tokens.WORDS:
            self._skip_group()
        return bound

    def _argument(self) -> Bound:
        r"""The argument of a command; of digits without braces the first one: \frac12."""
        token = self._peek()
        if token[:1].isdecimal() and len(token) > 1:
            self._tokens[self._next] = token[1:]
            return number(token[0])
        return self._operand()

    def _scripts(self) -> tuple[list[Bound], list[Bound]]:
        """What stands below and above a command."""
        found: dict[str, list[Bound]] = {"_": [], "^": []}
        while (token := self._peek()) in found:
            self._take()
            begin = self._next
            bound = self._index() if token == "_" else self._operand()
            is_exact = bound.whole or is_whole(self._tokens[begin : self._next])
            found[token].append(replace(bound, whole=is_exact))
        return found["_"], found["^"]

    def _function(self, name: str) -> Bound:
        self._functions += 1
        operator = self._skip_group() if name == "\\operatorname" else ""
        below, above = self._scripts()
        self._algebra, begin, cells = 0.0, self._next, self._size.cells
        argument = join(self._operand() if name in tokens.KEEPING else self._no_matrix(), *below)
        if operator in tokens.MAKERS and argument.most > _LARGEST_MATRIX:
            self._note(cells=argument.most**2)
        if operator in tokens.MATRIX_WORK:
            is_plain = argument.digits <= _DIGITS_IN_A_MATRIX and is_of_fractions(self._tokens[begin : self._next])
            if not is_plain or self._size.cells - cells >= tokens.MATRIX_WORK[operator]:
                self._count(costly=_ENDLESS)
        if name == "\\det":
            argument = self._determinant(argument, max(self._algebra, 1.0))
        if name in tokens.GAMMAS:
            bound = self._arithmetic.factorial(argument)
        elif name in tokens.GROWING:
            bound = self._arithmetic.power(CONSTANT, argument)
        else:
            bound = argument if name in tokens.KEEPING else self._arithmetic.function(argument)
        for exponent in above:
            bound = self._arithmetic.power(bound, exponent)
        return bound

    def _repeated(self, name: str) -> Bound:
        """A sum or product with its range; an integral or a limit, which are counted as costly."""
        below, above = self._scripts()
        range_ = join(*below, *above)
        is_sum = name in tokens.SUMS
        is_finite = is_sum and bool(above) and not any(bound.degree for bound in above)
        count = range_.most if is_finite else 1.0
        outer = self._symbol
        self._symbol = replace(outer, digits=max(outer.digits, math.log10(count)))
        begin = self._next
        body = self._product(Bound())
        self._symbol = outer
        is_easy = body.is_low and is_polynomial(self._tokens[begin : self._next])
        is_product, at_once = name == "\\prod", name == "\\sum" and is_easy
        if is_finite and not range_.whole:
            self._count(costly=_ENDLESS)  # From or to a fraction: a gamma function.
        elif not is_finite:
            self._count(costly=_ENDLESS if is_product or (is_sum and not body.degree) else 1)
        elif count > _LONG_SUM:
            self._count(costly=1 if at_once else math.log10(count))
        self._long_products += is_product and count > _LONG_PRODUCT * (4 / max(body.degree, 1) if is_easy else 1)
        return self._arithmetic.repeated(body, count, product=is_product, at_once=at_once)
