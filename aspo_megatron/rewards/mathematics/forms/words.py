r"""References that are words, which math-verify would take for products of letters: `on` for `no`."""

from __future__ import annotations

import re

_TEXT = re.compile(r"\\(?:text|textbf|textrm|textit|mathrm|mathbf|mbox|operatorname)\s*\{([^{}\\]*)\}")
_BOX = re.compile(r"\\boxed\{(.*)\}", re.DOTALL)
_LETTERS = re.compile(r"(?<!\\)[A-Za-z]+")
_OF_DAY = re.compile(r"(?i)(\d)([ap])\.?m\.?(?![a-z])")
_SPACE = re.compile(r"\\[ ,;:!]|[\s$~]")
_ARTICLE = re.compile(r"\A(?:an?|the)\s+(?=\w{2})", re.IGNORECASE)
_WORDS = re.compile(r"[A-Za-z]+(?:\s+[A-Za-z]+)*")
_SHORT = frozenset(
    (
        *(
            "is",
            "are",
            "was",
            "has",
            "had",
            "have",
            "of",
            "to",
            "it",
            "we",
            "he",
            "she",
            "they",
            "in",
            "at",
            "by",
            "so",
        ),
        *("as", "be", "for", "from", "the", "its", "you", "can", "how", "many"),
    )
)
"""Words of sentences that are shorter than `is_word` takes for words."""

_MATHEMATICAL = frozenset(
    (
        "arcsin",
        "arccos",
        "arctan",
        "sinh",
        "cosh",
        "tanh",
        "sqrt",
        "infinity",
        "infty",
        "pmod",
        "equiv",
        "alpha",
        "theta",
    )
)
_VOWEL = re.compile(r"[aeiouy]", re.IGNORECASE)
_CASED = re.compile(r"[A-Z]?[a-z]+|[A-Z]+")
_AT_LEAST = 4
_KNOWN = frozenset(
    (
        *("no", "yes", "on", "off", "up", "in", "out", "odd", "one", "two", "six", "ten", "red", "all", "any", "dne"),
        *("mon", "tue", "wed", "thu", "fri", "sat", "sun", "and", "nor", "not", "first", "forty", "below", "empty"),
    )
)
"""Words that `is_word` would take for products."""

_ALL = re.compile(
    r"(?:[a-z](?:is|canbe))?(?:the)?(?:setof)?(?:all|any|every)(?:the)?real(?:s|(?:numbers?|values?(?:of)?)?[a-z]?)"
    r"|(?:the)?(?:setof)?(?:the)?realnumbers|(?:the)?reals"
)
_NONE = re.compile(r"(?:thereisno|thereareno|hasno|no)(?:real)?solutions?(?:exists?)?|none|(?:the)?(?:empty|null)set")
_NOTHING = re.compile(r"[\s$]*(?:\\(?:emptyset|varnothing|empty)(?![a-zA-Z])|\\\{\s*\\\}|\u2205)[\s$.]*")
_PHI = re.compile(r"[\s$]*\\(?:var)?[pP]hi[\s$.]*")


def says_something(word: str) -> bool:
    """Whether letters are a word of a sentence, and neither variables nor a function's name."""
    small = word.lower()
    return small in _SHORT or (is_word(word) and small not in _MATHEMATICAL and small not in ("and", "or", "nor"))


def read_words(formula: str) -> str | None:
    r"""The words that a formula consists of, in small letters without spaces and without an article before them.

    None if there is something else in it.

    Args:
        formula: with or without a box, `$` or `\text{}`.
    """
    box = _BOX.fullmatch(formula.strip())
    plain = _TEXT.sub(r" \1 ", (box[1] if box else formula)).strip(" $.~\n\t")
    return "".join(_ARTICLE.sub("", plain).split()).lower() if _WORDS.fullmatch(plain) else None


def says_all(formula: str) -> bool:
    """Whether words say that it is all real numbers."""
    return _ALL.fullmatch(read_words(formula) or "") is not None


def _says_none(formula: str) -> bool:
    """Whether words or a sign say that it is no number, or the empty set."""
    return _NONE.fullmatch(read_words(formula) or "") is not None or _NOTHING.fullmatch(formula) is not None


def both_say_none(reference: str, answer: str) -> bool:
    """Whether both say that there is nothing; to the sign of the empty set, so does a letter that looks like it."""
    looks_so = _NOTHING.fullmatch(reference) is not None and _PHI.fullmatch(answer) is not None
    return looks_so or (_says_none(reference) and _says_none(answer))


def plain_text(formula: str) -> str:
    r"""A text without `\text{}` and space, in small letters if it has a word; times of day as `7:30pm`.

    It is empty if there are no letters.
    """
    if not _LETTERS.search(formula):
        return ""
    plain = _OF_DAY.sub(r"\1\2m", _SPACE.sub("", _TEXT.sub(r"\1", formula))).removesuffix(".")
    return plain.lower() if any(map(is_word, _LETTERS.findall(formula))) or _OF_DAY.search(plain) else plain


def read_word_reference(reference: str) -> str | None:
    r"""The words of a reference that is to be read as text; None if it is mathematics.

    That is one in `\text{}` or the like, or one with a word in it: a known one, or four letters or more with a vowel
    among them, in the usual case, that do not follow the alphabet as the factors of a product do (`ab`, `mgh`, `abcd`).
    """
    words = read_words(reference)
    if words is None or len(words) == 1:
        return None
    is_text = _TEXT.search(reference) is not None
    return words if is_text or any(map(is_word, _LETTERS.findall(reference))) else None


def is_word(letters: str) -> bool:
    """Whether letters are a word of a language and no product, as far as their shape tells."""
    small = letters.lower()
    if small in _KNOWN:
        return True
    is_cased = len(letters) >= _AT_LEAST and _CASED.fullmatch(letters) is not None
    in_order = list(small) == sorted(set(small))
    return is_cased and _VOWEL.search(small) is not None and not in_order
