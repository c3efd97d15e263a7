r"""Ratios and times of day, which are both written with colons: `1:2:3` equals `2:4:6`, and `3:30` only itself.

Two numbers that could be a time of day are one, unless the question speaks of a ratio and of no time of day. Times are
compared by their digits; a time without `a.m.` or `p.m.` is the same as one with it.
"""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any, NamedTuple

import sympy

from aspo_megatron.rewards.mathematics.compare.values import same_by_value, value_at
from aspo_megatron.rewards.mathematics.cost.latex_size import LIMIT
from aspo_megatron.rewards.mathematics.forms.tidy import tidied
from aspo_megatron.rewards.mathematics.reading.answers import TooBigError, read_answer
from aspo_megatron.rewards.mathematics.reading.formula import boxed

_LONGEST = 200
_MOST_PARTS = 8
_COLON = re.compile(r"\{\s*:\s*\}|\\mathbin\s*\{?\s*:\s*\}?|\\colon(?![a-zA-Z])|[\u2236\uff1a]")
_TO = re.compile(
    r"(?<=[\w})])\s*(?:\\(?:text|textrm|mathrm|mbox)\s*\{\s*to\s*\}|(?<![A-Za-z\\])to(?![A-Za-z]))\s*(?=[\w\\({.-])"
)
_LOOKS = re.compile(r"\\(?:text|textrm|mathrm|mbox)\s*\{|[{}$~\s]|\\[,;:! ]")
_TIME = re.compile(r"0?(?P<hours>1?\d|2[0-4]):(?P<minutes>[0-5]\d)(?P<half>[ap]\.?m\.?)?\.?", re.IGNORECASE)
_OF_DAY = re.compile(r"\b(?:clock|noon|midnight)\b|\d\s*[ap]\.?m\b|\b[ap]\.m\.", re.IGNORECASE)
_OF_RATIO = re.compile(r"\b(?:ratios?|proportions?|proportional|odds|scale)\b|[\u6bd4]", re.IGNORECASE)
_NAMED = re.compile(r"\s*(?P<names>[A-Za-z]{1,2}(?:\s*:\s*[A-Za-z]{1,2})+)\s*=(?P<ratio>[^=]+)")
_DIGITS = 40
_SAME = sympy.Float("1e-30")


class _Time(NamedTuple):
    hours: int
    minutes: int
    half: str


def with_colons(formula: str, *, reads_to: bool) -> str:
    r"""A formula with plain colons for `\colon`, `{:}` and the sign of ratios.

    Args:
        formula: any.
        reads_to: put one for `to` between two numbers, too.
    """
    if len(formula) > _LONGEST:
        return formula
    plain = _COLON.sub(":", formula)
    parts = _TO.split(plain) if reads_to else [plain]
    return plain if len(parts) != 2 or ":" in plain else f"{parts[0]}:{parts[1]}"


def same_ratio(reference: str, answer: str, question: str) -> bool | None:
    """Whether an answer is the reference's time of day, or its ratio of three numbers or more; None if that is neither.

    Ratios of two numbers are compared as fractions, by others.

    Args:
        reference: as it is given, with plain colons.
        answer: the same.
        question: the problem.
    """
    if ":" not in reference or max(len(reference), len(answer)) > _LONGEST:
        return None
    time = _time(reference)
    if time is not None and (time.half or not is_about_ratio(question)):
        given = _time(answer)
        return given is not None and _same_time(time, given)
    wanted = _numbers(reference, question)
    if wanted is None or len(wanted) < 3:
        return None
    ratio = _numbers(answer, question)
    return ratio is not None and len(ratio) == len(wanted) and _are_proportional(wanted, ratio)


def is_about_ratio(question: str) -> bool:
    """Whether a question speaks of a ratio, and of no time of day."""
    return _OF_RATIO.search(question) is not None and _OF_DAY.search(question) is None


def _time(formula: str) -> _Time | None:
    match = _TIME.fullmatch(_LOOKS.sub("", formula))
    if match is None:
        return None
    return _Time(int(match["hours"]), int(match["minutes"]), (match["half"] or "")[:1].lower())


def _same_time(one: _Time, other: _Time) -> bool:
    if one[:2] == other[:2]:
        return "" in (one.half, other.half) or one.half == other.half
    return bool(one.half or other.half) and _of_24_hours(one) == _of_24_hours(other)


def _of_24_hours(time: _Time) -> tuple[int, int]:
    hours = time.hours % 12 + 12 * (time.half == "p") if time.half else time.hours
    return hours, time.minutes


def _numbers(formula: str, question: str) -> list[Any] | None:
    """The numbers of a ratio; None if something else is said, or of other things than those in turn."""
    text = tidied(formula)
    named = _NAMED.fullmatch(text)
    if named is not None:
        names = "".join(named["names"].split())
        if names.split(":") != sorted(set(names.split(":"))) and names not in "".join(question.split()):
            return None
        text = named["ratio"]
    parts = text.split(":")
    if len(parts) > _MOST_PARTS:
        return None
    numbers = [_number(part) for part in parts]
    return None if any(number is None for number in numbers) else numbers


def _number(text: str) -> Any:
    try:
        read = read_answer(boxed(text.strip()), LIMIT) if text.strip() else []
    except TooBigError:
        return None
    is_number = len(read) > 1 and isinstance(read[0], sympy.Expr) and not read[0].free_symbols
    return read[0] if is_number and value_at(read[0], (), 0) else None


def _are_proportional(one: list[Any], other: list[Any]) -> bool:
    """Whether all products across are the same; no number is zero."""
    pairs = list(zip(one, other, strict=True))
    return all(_same(first[0] * second[1], first[1] * second[0]) for first, second in combinations(pairs, 2))


def _same(one: Any, other: Any) -> bool:
    same = same_by_value(one, other)
    if same is not None:
        return same
    values = [value_at(each, (), 0, _DIGITS) for each in (one, other)]
    return None not in values and bool(abs(values[0] - values[1]) <= _SAME * abs(values[0]))
