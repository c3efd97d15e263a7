"""Pieces of LaTeX, what they do in a formula, and going through them, counting."""

from __future__ import annotations

import re
from dataclasses import replace

from aspo_megatron.rewards.mathematics.cost.magnitude import Arithmetic, Size

TOKEN = re.compile(
    r"\\[a-zA-Z]+|\\.|\*\*|\d{1,3}(?:,\d{3})+(?!\d)|(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?|[^\s~]", re.DOTALL
)


def _set(names: str) -> frozenset[str]:
    return frozenset(names.split())


BRACKETS = {"(": 1, "[": 1, "{": 0, "\\{": 1, "\\lfloor": 1, "\\lceil": 1, "\\langle": 1, "\\lbrace": 1, "\\lbrack": 1}
CLOSERS = _set(r") ] } \} \rfloor \rceil \rangle \rbrace \rbrack \end")
SIGNS = _set("+ - \\pm \\mp \u2212 \u00b1")
OVER = _set("/ \\div : \u00f7")
PASSED = _set(r"* \cdot \times \bmod \mod \pmod \left \right \, \; \: \! \quad \qquad \$ $ \% % \displaystyle \limits")
PASSED |= _set("\u00d7 \u00b7")
UNIONS = _set("\\cup \\cap \\setminus \\bigcup \\bigcap \u222a \u2229")
RELATIONS = _set(r"= < > \le \ge \leq \geq \lt \gt \ne \neq \approx \equiv \sim \in \notin \to") | _set(
    "\u2264 \u2265 \u2260"
)
SEPARATORS = UNIONS | RELATIONS | _set(r", ; & \\ \choose")
ENDS = SIGNS | CLOSERS | SEPARATORS
BARS = _set(r"| \| \vert \lvert \rvert \Vert")
POWERS = _set("^ **")
POSTFIXES = POWERS | BARS | _set("! _ '")
FRACTIONS = _set(r"\frac \dfrac \tfrac \cfrac")
BINOMIALS = _set(r"\binom \dbinom \tbinom")
SMALL = _set(r"\sin \cos \tan \cot \sec \csc \arcsin \arccos \arctan \log \ln \lg \tanh \coth \arg")
GROWING = _set(r"\exp \sinh \cosh")
GAMMAS = _set(r"\Gamma \gamma")
KEEPING = _set(r"\operatorname \det")
"""Their value may be as large as their argument."""
FUNCTIONS = SMALL | GROWING | GAMMAS | KEEPING
MATRIX_WORK = {
    **dict.fromkeys(_set("rank rref nullspace norm orth ortho orthogonal orthogonalize eigenvals eigenvalues"), 16),
    **dict.fromkeys(_set("eigenvects eigenvectors"), 9),
    **dict.fromkeys(_set("eig eigen diagonalize"), 4),
    **dict.fromkeys(_set("svd SVD"), 0),
}
"""Operators that are computed as they are read, and how many cells of fractions take them tenths of a second."""

MAKERS = _set("eye zeros ones diag")
ROUNDING = _set(r"\lfloor \lceil")
SUMS = _set(r"\sum \prod")
REPEATED = SUMS | _set(r"\int \iint \iiint \oint \lim")
_DEEPEST = 100
_DIGITS_LIKE_A_FUNCTION = 100.0
WORDS = _set(r"\text \mbox \textbf \textit \textrm \textnormal")


class Tokens:
    """Goes through tokens once, from left to right."""

    def __init__(self, found: list[str]) -> None:
        self._tokens = found
        self._next = 0

    def _peek(self) -> str:
        return self._tokens[self._next] if self._next < len(self._tokens) else ""

    def _take(self) -> str:
        token = self._peek()
        self._next += 1
        return token

    def _skip_group(self) -> str:
        """What is in the braces that follow, without reading it."""
        if self._peek() != "{":
            return ""
        begin, depth = self._next + 1, 0
        while (token := self._take()) and (depth := depth + (token == "{") - (token == "}")):
            pass
        return "".join(self._tokens[begin : self._next - 1])


class TooDeepError(Exception):
    """Brackets or operations stand in each other too often to be read."""


class Counter(Tokens):
    """Counts what is found on the way."""

    def __init__(self, found: list[str]) -> None:
        super().__init__(found)
        self._depth = 0
        self._arithmetic = Arithmetic()
        self._open = {0: 0, 1: 0}
        self._size = Size(tokens=len(found))
        self._functions = 0

    @property
    def size(self) -> Size:
        """What was found by now."""
        found = self._arithmetic
        more = self._functions + found.digits / _DIGITS_LIKE_A_FUNCTION
        costly = self._size.costly + (more if self._size.costly else 0)
        return replace(self._size, digits=found.digits, terms=found.terms, roots=found.roots, costly=costly)

    def _note(self, **counts: float) -> None:
        self._size = self._size.join(Size(**counts))

    def _count(self, **counts: float) -> None:
        self._size = replace(self._size, **{name: getattr(self._size, name) + n for name, n in counts.items()})

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise TooDeepError

    def _opened(self, kind: int, by: int) -> None:
        self._open[kind] += by
        self._note(nesting=self._open[1], braces=self._open[0])
