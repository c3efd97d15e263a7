"""Telling an answer from a formula that repeats the question: `3+4` does not answer what `3+4` is."""

from __future__ import annotations

import math
import re
from itertools import accumulate

from aspo_megatron.rewards.mathematics.reading.answers import written

_OPERATION = re.compile(r"[+*/^!\u00b7\u00d7\u00f7]|(?<=[\w)}])-|\\(?!pi|infty|circ|%|emptyset|mathbb)[a-zA-Z]+")
_DEGREES = re.compile(r"\^\{?\\circ\}?")
_FRACTION = re.compile(r"-?(?:\\frac\{(\d{1,9})\}\{(\d{1,9})\}|(\d{1,9})/(\d{1,9}))")
_CLOSING = {"(": ")", "[": "]", "{": "}"}
_LOOKED_AT = 80
_GOES_ON_BEFORE = re.compile(r"(?:[\w.]|[-+*/^!_\u00b7\u00d7\u00f7({\d)}\]]\s*|\\[a-zA-Z]+\s*)\Z")
_GOES_ON_AFTER = re.compile(r"\w|\.\d|\s*(?:[-+*/^!_\u00b7\u00d7\u00f7()}]|\\[a-zA-Z])")


def repeats(answer: str, question: str) -> bool:
    """Whether an answer stands in the question word for word, as a formula with something to be worked out.

    Numbers, fractions in lowest terms, names and lists have nothing left to be worked out.

    Args:
        answer: a formula.
        question: the problem.
    """
    answer = written(answer).strip(".")
    if "," in answer or not _OPERATION.search(_DEGREES.sub("", answer)) or _is_reduced(answer):
        return False
    asked = written(question, space=" ")
    formulas = (r"\s*".join(map(re.escape, each)) for each in {answer, _without_brackets(answer)})
    return any(_is_whole(asked, *match.span()) for formula in formulas for match in re.finditer(formula, asked))


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether no formula goes on before or after a part of a text."""
    before = text[max(0, start - _LOOKED_AT) : start]
    return _GOES_ON_BEFORE.search(before) is None and _GOES_ON_AFTER.match(text, end) is None


def _without_brackets(text: str) -> str:
    """Without those around all of it."""
    while text[:1] in _CLOSING and text[-1] == _CLOSING[text[0]]:
        depths = list(accumulate((each == text[0]) - (each == text[-1]) for each in text))
        if 0 in depths[:-1]:
            break
        text = text[1:-1]
    return text


def _is_reduced(text: str) -> bool:
    """Whether it is a fraction of whole numbers in lowest terms."""
    match = _FRACTION.fullmatch(text)
    if match is None:
        return False
    above, below = (int(number) for number in match.groups() if number)
    return math.gcd(above, below) == 1
