r"""Percentages: `50\%` is right for 50 as for `50\%`, and for a half. One rule for whole numbers and fractions."""

from __future__ import annotations

import re
from decimal import Decimal
from fractions import Fraction

from aspo_megatron.rewards.mathematics.forms.tidy import tidied

_NUMBER = re.compile(
    r"(?P<sign>[-+]?)\s*(?:(?P<decimal>\d{1,40}(?:\.\d{0,40})?)"
    r"|(?P<whole>\d{0,40})\s*\\[dtc]?frac\s*(?:\{\s*(?P<above>\d{1,40})\s*\}\s*\{\s*(?P<below>\d{1,40})\s*\}"
    r"|\s(?P<one>\d)\s?(?P<other>\d)|(?P<over>\d)\s?(?P<under>\d))|(?P<top>\d{1,40})\s*/\s*(?P<bottom>\d{1,40}))"
)
_PERCENT = re.compile(r"(?P<name>[^=<>]{0,60}=)?(?P<number>[^=<>]{1,200}?)(?:\s|\\[ ,;:!]|~)*\\?%\s*")
_ASKED = re.compile(r"percent|per cent|\\?%|\bpct\b", re.IGNORECASE)
_BRACKETS = re.compile(r"(?:\\left\s*)?\((?P<inside>[^()]*?)(?:\\right\s*)?\)")


def percentages(reference: str, answer: str, question: str) -> list[tuple[str, str]]:
    r"""Pairs of a reference and an answer without percent signs, one of which is to be the same.

    For the reference `p\%` these are right: `p\%`, p, and what it is as a number, a hundredth of p. For a reference p
    without the sign `p\%` is right, if p is at least 1 or the question has to do with percentages; and for one of at
    most 1 the percentage that is the same number: `50\%` for a half. `5000\%` is wrong for 50.

    Args:
        reference: a formula.
        answer: another one.
        question: the problem.
    """
    as_they_are = [(reference, answer)]
    reference, answer = tidied(reference), tidied(answer)
    if "%" not in reference and "%" not in answer:
        return as_they_are
    wanted, given = _read(reference), _read(answer)
    if wanted is not None and given is not None:
        return [(wanted.text, given.text)]
    if wanted is not None:
        if "\\circ" in answer:
            return []
        return [(wanted.text, answer), (wanted.hundredth, answer)]
    if given is None:
        return as_they_are
    value = _value(reference.rpartition("=")[2])
    pairs = []
    if value is not None and (abs(value) >= 1 or _ASKED.search(question)):
        pairs.append((reference, given.text))
    if value is None or abs(value) <= 1:
        pairs.append((reference, given.hundredth))
    return pairs


class _Percentage:
    """A number with a percent sign, and a name with an equals sign before it or nothing."""

    def __init__(self, name: str, number: str, value: Fraction) -> None:
        if re.fullmatch(r"[-+]?\d+\.\d*", number):
            text, hundredth = number, format(Decimal(number).scaleb(-2), "f")
        else:
            text, hundredth = _as_latex(value), _as_latex(value / 100)
        self.text, self.hundredth = name + text, name + hundredth


def _as_latex(value: Fraction) -> str:
    sign = "-" if value < 0 else ""
    above, below = abs(value.numerator), value.denominator
    return f"{sign}{above}" if below == 1 else rf"{sign}\frac{{{above}}}{{{below}}}"


def _read(formula: str) -> _Percentage | None:
    """A number with a percent sign; None of anything else."""
    match = _PERCENT.fullmatch(formula.strip())
    if match is None:
        return None
    number = match["number"].strip()
    value = _value(number)
    return None if value is None else _Percentage(match["name"] or "", "".join(number.split()), value)


def _value(number: str) -> Fraction | None:
    """The value of a decimal or mixed number, or a fraction, also in brackets; None of anything else."""
    brackets = _BRACKETS.fullmatch(number.strip())
    match = _NUMBER.fullmatch((brackets["inside"] if brackets else number).strip())
    if match is None:
        return None
    above = match["above"] or match["one"] or match["over"] or match["top"] or "0"
    below = match["below"] or match["other"] or match["under"] or match["bottom"] or "1"
    if int(below) == 0:
        return None
    value = Fraction(match["decimal"] or match["whole"] or 0) + Fraction(int(above), int(below))
    return -value if match["sign"] == "-" else value
