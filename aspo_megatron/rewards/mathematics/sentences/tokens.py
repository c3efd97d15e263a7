"""Texts as numbers, names, signs and words, so that it can be told where a plain formula in a sentence ends."""

from __future__ import annotations

import re
from typing import NamedTuple

from aspo_megatron.rewards.mathematics.forms import units
from aspo_megatron.rewards.mathematics.forms.words import says_something


def words(names: str) -> frozenset[str]:
    """A set of what is in a text, one after the other."""
    return frozenset(names.split())


HAN = "\u4e00-\u9fff"
_TOKEN = re.compile(
    r"(?P<formula>\$\$[^$]{1,1000}\$\$|\\\[(?:[^\\]|\\(?!\])){1,1000}\\\]|\\\((?:[^\\\n]|\\(?!\))){1,1000}\\\)"
    r"|(?<![\\\d])\$(?=[^\s$])[^$\n]{0,999}[^\s\\$]\$(?!\d)|(?<![\\\d])\$[^\s$]\$(?!\d))"
    r"|(?P<number>(?:\\?[$\u20ac\u00a3\u00a5]\s?)?(?:[1-9]\d{0,2}(?:[ ,]\d{3})+(?![\d])|\d+|(?=\.\d))(?:\.\d+)?)"
    r"|(?P<command>\\[a-zA-Z]+)"
    rf"|(?P<word>(?:e\.g|i\.e)\.|[A-Za-z]+(?:'[A-Za-z]+)?|[{HAN}]+)"
    r"|(?P<sign><=|>=|!=|==|\+/-|\*\*|[-+*/^=<>:&_])"
    r"|(?P<open>\\?[(\[{])|(?P<close>\\?[)\]}])|(?P<comma>[,;])|(?P<after>!|\\?%)|(?P<space>[ \t]+)|(?P<stop>.)",
    re.DOTALL,
)
FUNCTIONS = words(
    "sqrt cbrt pi log ln lg sin cos tan cot csc arcsin arccos arctan sinh cosh tanh exp infinity infty inf"
)
_SIGNS = words(
    r"\times \cdot \div \pm \mp \le \leq \ge \geq \ne \neq \lt \gt \in \notin \mid \equiv \cup \cap \setminus \ast"
)
_APART = words(
    r"\therefore \because \Rightarrow \rightarrow \leftarrow \Leftrightarrow \implies \to \iff \approx \quad \qquad"
    r" \square \blacksquare \item \newline \checkmark \end \begin \parallel \perp \angle \triangle"
)
"""Commands with which no formula goes on."""

_SHORT = words("an as at be by do go he if in is it me my no of on or so to up us we vs am oh ok hi")
_TIMES = re.compile(r"[ \t]*\\?\$?\.?\d")
_ORDINAL = re.compile(r"(?:st|nd|rd|th)\Z")
_LONGEST_NAME = 4


class Token(NamedTuple):
    """`kind` is the name of a group of the pattern, or `variable`, `function`; `spaced`: there is space before it."""

    kind: str
    text: str
    start: int
    end: int
    spaced: bool


class Tokens:
    """What a text consists of, and which brackets belong together."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._list = _tokens(text)
        self.pairs = _pairs(self._list)

    def __len__(self) -> int:
        return len(self._list)

    def __getitem__(self, index: int) -> Token:
        """A token; an empty one before the first and after the last."""
        if 0 <= index < len(self._list):
            return self._list[index]
        end = len(self.text) if index > 0 else 0
        return Token("stop", "", end, end, True)

    def starting_before(self, position: int) -> int:
        """The last one that starts before a position in the text; -1 if none does."""
        low, high = 0, len(self._list)
        while low < high:
            middle = (low + high) // 2
            low, high = (middle + 1, high) if self._list[middle].start < position else (low, middle)
        return low - 1


def _tokens(text: str) -> list[Token]:
    found: list[Token] = []
    spaced = True
    matches = [match for match in _TOKEN.finditer(text) if match.lastgroup]
    for number, match in enumerate(matches):
        kind = match.lastgroup or "stop"
        if kind == "space":
            spaced = True
            continue
        if kind == "word" and match[0] in "xX" and found and _TIMES.match(text, match.end()):
            kind = "sign" if found[-1].kind in ("number", "after", "close", "word") else "variable"
        elif kind == "word":
            following = matches[number + 2] if number + 2 < len(matches) else None
            kind = _kind_of_word(
                match[0], found[-1] if found else None, spaced, _article_of(matches, number, following)
            )
        elif kind == "command":
            kind = "sign" if match[0] in _SIGNS else "stop" if match[0] in _APART else "command"
        elif kind == "stop" and match[0] == "\n":
            kind = "line"
        found.append(Token(kind, match[0], *match.span(), spaced or kind == "line"))
        spaced = kind == "line"
    return found


def _article_of(matches: list[re.Match[str]], number: int, following: re.Match[str] | None) -> bool:
    """Whether a word or number comes after a letter and one space, as it does after an article."""
    return (
        following is not None
        and matches[number + 1].lastgroup == "space"
        and (following.lastgroup == "number" or (following.lastgroup == "word" and len(following[0]) > 1))
    )


def _kind_of_word(word: str, before: Token | None, spaced: bool, is_article: bool) -> str:
    """Whether letters are a word, a name of a function, or variables."""
    if word in FUNCTIONS:
        return "function"
    if not word.isascii() or "." in word or "'" in word:
        return "word"
    if len(word) == 1:
        return "word" if word in "aAI" and is_article else "variable"
    behind_number = before is not None and before.kind == "number"
    if behind_number and not spaced:
        is_cased = word.islower() or word.isupper()
        is_name = is_cased and len(word) <= _LONGEST_NAME and not _ORDINAL.match(word) and not says_something(word)
        return "variable" if is_name else "word"
    is_known = word in _SHORT or word in units.LONG or word in units.NAMED or not word.islower()
    return "variable" if len(word) == 2 and not is_known and (behind_number or _ends_formula(before)) else "word"


def _ends_formula(before: Token | None) -> bool:
    return before is not None and before.kind == "sign" and before.text not in (":", "-")


def _pairs(tokens: list[Token]) -> dict[int, int]:
    """Opening brackets and their closing ones, and back; a line ends all."""
    opened: list[int] = []
    pairs: dict[int, int] = {}
    for index, token in enumerate(tokens):
        if token.kind == "line":
            opened.clear()
        elif token.kind == "open":
            opened.append(index)
        elif token.kind == "close" and opened:
            start = opened.pop()
            pairs[start], pairs[index] = index, start
    return pairs
