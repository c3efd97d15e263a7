r"""Words around a number that make something else of it: `not 3`, `at least 3`, `3 or more`, `3 feet 4 inches`."""

from __future__ import annotations

import re

from aspo_megatron.rewards.mathematics.forms.units import LONG, NAMED
from aspo_megatron.rewards.mathematics.sentences.tokens import HAN, words

_NEGATED = re.compile(
    r"(?:\bnot|n't|\brather\s+than|\binstead\s+of|\bstep|\bother\s+than|\u4e0d\u662f|\u4e0d\u7b49\u4e8e|\u800c\u975e|\u5e76\u975e)"
    r"\s*(?:(?:equal\s+to|exactly|just|be)\s+)?\Z",
    re.IGNORECASE,
)
_BOUND = re.compile(
    r"(?:\bat\s+(?:the\s+)?(?:least|most)|\b(?:more|less|fewer|greater|larger|smaller|bigger|higher|lower)\s+than"
    r"|\bbetween|\bexceed(?:s|ing)?|\bbelow|\babove|\bunder|\bover|(?<![,$])\s\bor|\bor\s+(?:maybe|perhaps|even)"
    r"|\bmod(?:ulo)?|\bequal\s+to\s+or\s+\w+\s+than|\bor\s+equal\s+to|\bmultiples?\s+of|\bdivisible\s+by|\bplus|\btimes"
    r"|\u81f3\u5c11|\u81f3\u591a|\u6700\u591a|\u6700\u5c11|[\u5927\u5c0f\u591a\u5c11\u9ad8\u4f4e]\u4e8e|\u8d85\u8fc7"
    r"|\u4e0d\u8db3|\u6216\u8005?|\u7b2c)\s*\Z",
    re.IGNORECASE,
)
_NEGATIVE = re.compile(r"(?:\b(?:negative|minus)\s+|\u8d1f\s*)\Z", re.IGNORECASE)
_IS = re.compile(
    r"(?:\b(?:is|are|be|was|equals?|get|gives?|obtain|namely|to)|[=:]|[\u662f\u4e3a\u5f97])\s*\Z", re.IGNORECASE
)
_SCALE = re.compile(
    r"(?:hundred|thousand|million|billion|trillion)\b|\u4e07|\u4ebf|dozen\b|percent(?:age)?\b(?!\s+(?:less|more|of)\b)|squared\b|cubed\b"
    r"|and\s+(?:a|one)\s+(?:half|quarter|third)\b",
    re.IGNORECASE,
)
_CHANGED = re.compile(
    r"(?:(?:or|and)\s+(?:more|less|fewer|greater|so|maybe|perhaps|possibly|above|below|higher|lower|up|over|under|two|three"
    r"|half|a\s+half)|halves|half|quarters?|thirds|fourths|fifths|sixths|sevenths|eighths|ninths|tenths|hundredths"
    r"|percent|percentage|choose|raised|to\s+the\s+(?:\w+\s+)?power|out\s+of|degrees?\s+below|below|(?:less|more|fewer)\s+than\s+[\\$]?\d|negative"
    r"|multiplied|divided|st|nd|rd|th|score|dozens|(?:hundred|thousand|million)s)\b|percent\s+(?:less|more)"
    r"|\u767e|\u5343(?![\u7c73\u514b\u74e6])|\u6210|\u5206\u4e4b|\u6216|\u4ee5[\u4e0a\u4e0b]|\u5230|\u81f3|\u4e2a?\u534a",
    re.IGNORECASE,
)
_SECOND = re.compile(
    rf"(?P<unit>[A-Za-z]+)\s+(?:(?P<joined>and|or|by|to|plus|minus|times)\s+)?\$?\d|[{HAN}]{{1,3}}\s*[\u548c\u6216\u52a0\u53c8\u96f6]?\s*\d"
)
_SECOND_BEFORE = re.compile(r"\d\s*(?P<unit>[A-Za-z]+)\s+(?:(?P<joined>and|or)\s+|(?:by|to|plus|minus|times)\s+)?\$?\Z")
JOINING = words(
    "and or to of by plus minus times over mod modulo choose versus vs through \u548c \u6216 \u6216\u8005 \u5230 \u81f3"
)
_LOOKED_AT = 40


def is_negated(text: str, start: int) -> bool:
    """Whether what starts there is said to be something else: `not 3`, `rather than 3`, `step 3`."""
    return _NEGATED.search(text[max(0, start - _LOOKED_AT) : start]) is not None


def is_bound(before: str) -> bool:
    """Whether what stands in a line before a number makes a bound or a part of it: `at least 3`, `20 feet 3`."""
    return _BOUND.search(before) is not None or _has_second_before(before)


def is_negative(before: str) -> bool:
    """Whether a number after this text is below zero."""
    return _NEGATIVE.search(before) is not None


def is_after_is(before: str) -> bool:
    """Whether a text ends as it does before an answer."""
    return _IS.search(before) is not None


def scale_ends(behind: str) -> int:
    """How long the word is at the beginning of a text that is a factor of the number before it; 0 if none is."""
    scale = _SCALE.match(behind)
    return scale.end() if scale is not None else 0


def is_changed(behind: str) -> bool:
    """Whether the words behind a number make something else of it."""
    second = _SECOND.match(behind)
    if second is not None and (second["unit"] is None or second["joined"] or _is_unit(second["unit"])):
        return (second["unit"] or "").lower() not in JOINING
    return _CHANGED.match(behind) is not None


def _is_unit(word: str) -> bool:
    return word in LONG or word in NAMED


def _has_second_before(before: str) -> bool:
    """Whether a number with another unit comes right before: the minutes of `3 hours and 20 minutes`."""
    match = _SECOND_BEFORE.search(before)
    if match is None or match["unit"].lower() in JOINING:
        return False
    return match["joined"] is not None or _is_unit(match["unit"])
