"""Left sides of equations: which of them are no name for what stands on the right, and which say what is false."""

from __future__ import annotations

import re
from itertools import pairwise

import sympy

from aspo_megatron.rewards.mathematics.compare.values import same_by_value, value_at
from aspo_megatron.rewards.mathematics.cost.latex_size import LIMIT
from aspo_megatron.rewards.mathematics.forms.tidy import tidied
from aspo_megatron.rewards.mathematics.reading.answers import TooBigError, read_answer, written
from aspo_megatron.rewards.mathematics.reading.formula import EQUALS, boxed

_LONGEST = 400
_PLAIN = re.compile(r"(?:[\d\s.,+\-*/()^{}!]|\\(?:[dt]?frac|cdot|times|div|sqrt|left|right)(?![a-zA-Z])|\\[,;:! ])+")
_UNKNOWN = r"[({]*\d*[xyzt][)}]*"
_OF_UNKNOWN = re.compile(
    r"\\(?:ln|log|lg|exp|sqrt|(?:arc)?(?:sin|cos|tan)|cot|sec|csc|sinh|cosh|tanh)(?:_(?:\w|\{\w+\}))?(?:\^(?:\d|\{\d\}))?"
    rf"{_UNKNOWN}|e\^{_UNKNOWN}|\\lfloor[xyzt]\\rfloor|\\lceil[xyzt]\\rceil|\|[xyzt]\||\\lvert[xyzt]\\rvert"
    r"|[xyz](?:(?:\\cdot|\\times|\*)?[xyz]){1,2}"
)
_BRACKETS = str.maketrans("", "", "(){}$")
_DECIMALS = re.compile(r"\.(\d+)")
_ROUNDED = 0.6


def tells_nothing(answer: str, question: str) -> bool:
    r"""Whether an equation gives no value: it says of an unknown what is not asked, or of numbers what is not so.

    `\ln x=3`, `xy=3` and `|x|=3` give one only if the question has that left side; `mn=3`, `|AB|=3` and
    `\cos\theta=3` do, since such letters name what is asked for. In `1+1=3` two numbers are not the same; decimals may
    be rounded.

    Args:
        answer: what is in the box, for a reference that is no equation.
        question: the problem.
    """
    sides = EQUALS.split(answer) if len(answer) <= _LONGEST else []
    if len(sides) < 2:
        return False
    left, whole = (_compact(tidied(each)) for each in (sides[0], answer))
    if _OF_UNKNOWN.fullmatch(written(tidied(sides[0]))):
        asked = _compact(question)
        return left not in asked or whole in asked
    plain = [_PLAIN.fullmatch(side) is not None for side in sides]
    return any(
        both and _differ(tidied(one), tidied(other))
        for (one, other), both in zip(pairwise(sides), map(all, pairwise(plain)), strict=True)
    )


def _compact(text: str) -> str:
    return written(text).translate(_BRACKETS)


def _differ(one: str, other: str) -> bool:
    """Whether two numbers are known to differ, by more than the last place of one of them holds."""
    if "," in one + other:
        return False
    try:
        first, second = (read_answer(boxed(each), LIMIT) for each in (one, other))
    except TooBigError:  # It is not known.
        return False
    if len(first) < 2 or len(second) < 2 or same_by_value(first[0], second[0]) is not False:
        return False
    if not (first[0].has(sympy.Float) or second[0].has(sympy.Float)):
        return True
    values = [value_at(each[0], (), 0) for each in (first, second)]
    places = min(max(map(len, _DECIMALS.findall(each)), default=0) for each in (one, other))
    return None not in values and bool(abs(values[0] - values[1]) > _ROUNDED * 10**-places)
