"""Pieces of LaTeX, what they do in a formula, and going through them."""

from __future__ import annotations

import re

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
