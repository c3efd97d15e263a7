r"""References that are words, which math-verify would take for products of letters: `on` for `no`."""

from __future__ import annotations

import re

_TEXT = re.compile(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}\\]*)\}")
_BOX = re.compile(r"\\boxed\{(.*)\}", re.DOTALL)
_WORDS = re.compile(r"[A-Za-z]+(?:\s+[A-Za-z]+)*")
_VOWEL = re.compile(r"[aeiouy]", re.IGNORECASE)
_CASED = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_AT_LEAST = 4
_KNOWN = frozenset(
    (
        *("no", "yes", "on", "off", "up", "in", "out", "odd", "one", "two", "six", "ten", "red", "all", "any", "dne"),
        *("mon", "tue", "wed", "thu", "fri", "sat", "sun", "and", "nor", "not", "first", "forty", "below", "empty"),
    )
)
"""Words that `_is_word` would take for products."""


def read_words(formula: str) -> str | None:
    r"""The words that a formula consists of, in small letters without spaces; None if there is something else in it.

    Args:
        formula: with or without a box, `$` or `\text{}`.
    """
    box = _BOX.fullmatch(formula.strip())
    plain = _TEXT.sub(r" \1 ", (box[1] if box else formula)).strip(" $.~\n\t")
    return "".join(plain.split()).lower() if _WORDS.fullmatch(plain) else None


def read_word_reference(reference: str) -> str | None:
    r"""The words of a reference that is to be read as text; None if it is mathematics.

    That is one in `\text{}` or the like, or one with a word in it: a known one, or four letters or more with a vowel
    among them, in the usual case, that do not follow the alphabet as the factors of a product do (`ab`, `mgh`, `abcd`).
    """
    words = read_words(reference)
    if words is None or len(words) == 1:
        return None
    is_text = _TEXT.search(reference) is not None
    return words if is_text or any(map(_is_word, re.findall("[A-Za-z]+", reference))) else None


def _is_word(letters: str) -> bool:
    small = letters.lower()
    if small in _KNOWN:
        return True
    is_cased = len(letters) >= _AT_LEAST and _CASED.fullmatch(letters) is not None
    return is_cased and _VOWEL.search(small) is not None and list(small) != sorted(small)
