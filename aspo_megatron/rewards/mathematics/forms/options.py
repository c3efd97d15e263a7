r"""Options of multiple choice in references and answers: `B`, `(B) 18`, `\textbf{(B)}\ 18`, `Option B`."""

from __future__ import annotations

import re
from typing import NamedTuple

from aspo_megatron.rewards.mathematics.forms.tidy import tidied

_CHOICE = re.compile(r"\(?(?P<letter>[A-J])(?:\)[.:]?|[.:](?=\s|\\|\d))(?:\\[ ,;:!]|\s)*(?P<value>\S.*)", re.DOTALL)
_LETTER = re.compile(r"\(?\s*([A-J])\s*\)?[.:)]?")
_PREFIX = re.compile(
    r"\A\s*(?:\\(?:text|textbf|textrm|mathrm|mbox)\s*\{)?\s*(?:the\s+)?(?:correct\s+)?(?:option|choice|answer"
    r"|\u6545?\u9009(?:\u9879|\u62e9)?|(?:\u6700\u7ec8)?\u7b54\u6848[\u662f\u4e3a]?)\s*(?:is)?\s*:?\s*"
    r"(?P<rest>\(?[A-J]\)?[.:]?\s*)\}?\s*\Z",
    re.IGNORECASE,
)
_TEXT = re.compile(r"(?:\\(?:text|textrm|mathrm|mbox)\s*)?\{\s*(\(?[A-J]\)?[.:]?)\s*\}")
_OPERATOR = re.compile(
    r"[+*/^_=<>!|&,;]|(?:and|or)\b|\\(?:cup|cap|times|cdot|div|setminus|in|to|le|ge|ne|Rightarrow|implies|mid)(?![a-z])"
)
_IN_TEXT = re.compile(r"\A\\(?:text|textrm|mathrm|mbox)\s*\{\s*(\(?[A-J](?:\)|[.:]\s)[^{}]*)\}\Z")
_BETWEEN = re.compile(r"\\(?:text|textrm|textbf|mathrm|mbox)(?![a-z])|\band\b|[\u548c\u4e0e]|\\[ ,;:!]|[\s,;.&(){}]")
_LETTERS = re.compile(r"[A-J]{2,6}")
_PRIMED = re.compile(r"\(?[A-J]\)?'+")
_LOOK = re.compile(r"\\(?:text|textrm|textbf|mathrm|mathbf|mbox)\s*\{([^{}]*)\}|(?<!\\)\$|\*\*|`|\\[()\[\]]")
_ONE = r"(?:\([A-J]\)|[A-J](?![\w']))"
_SAID = re.compile(
    r"(?:\b(?i:answer|option|choice)\s*(?:(?i:is)\b|:)|\u7b54\u6848?\s*(?:[\u662f\u4e3a]|:)|\u3010\u7b54\u6848\u3011"
    r"|\u9009(?:\u9879|\u62e9)?)\s*:?\s*(?:(?i:option|choice)\s*)?"
    rf"(?P<said>{_ONE}(?:(?:\s*[,&\u3001\u548c]\s*|,?\s+and\s+|(?<=\)))\s*{_ONE})*|[A-J]{{2,6}})"
    r"(?P<value>(?:(?<=\))[.:]?|[.:]?\))\s*\S[^\n]*|[.:]\s+[^\n.]*)?[\s.)]*\Z"
)
_MORE_THAN_A_VALUE = re.compile(r"(?i:\b(?:or|and|but|not|wrong|because|since|so|as)\b)|n't|\([A-J]\)|\.\s|\?")
_LONGEST_SAID = 160


class Option(NamedTuple):
    """`letter` is one of A to J, `value` what it stands for; either may not be told."""

    letter: str | None
    value: str | None


def read_option(text: str) -> Option:
    """What is told of an option; a text that tells of none is a value."""
    plain = _IN_TEXT.sub(r"\1", tidied(text)).strip()
    plain = _TEXT.sub(r"\1", _PREFIX.sub(r"\g<rest>", plain)).strip()
    alone = _LETTER.fullmatch(plain)
    if alone is not None:
        return Option(alone[1], None)
    match = _CHOICE.match(plain)
    if match is None or _OPERATOR.match(match["value"]) or not _BETWEEN.sub("", match["value"]).strip("ABCDEFGHIJ"):
        return Option(None, text)
    return Option(match["letter"], match["value"])


def tells_options(text: str) -> bool:
    """Whether a reference is the letter of an option or several, with a value or without."""
    return read_option(text).letter is not None or _letters(text) is not None


def same_letters(one: str, other: str) -> bool | None:
    """Whether several options are the same: `A, D` and `AD`; None if that is not told by their letters."""
    first, second = _letters(one), _letters(other)
    if first is not None and first == second:
        return True
    return False if _PRIMED.fullmatch(tidied(other)) and read_option(one).letter is not None else None


def _letters(text: str) -> str | None:
    """The letters of several options, without what is between them."""
    letters = _BETWEEN.sub("", tidied(text))
    return letters if _LETTERS.fullmatch(letters) and list(letters) == sorted(set(letters)) else None


def said_option(text: str) -> str | None:
    """The option that a text ends with, as all that is said after `answer is`, with its value if that is there."""
    match = _SAID.search(_LOOK.sub(r"\1", text[-_LONGEST_SAID:]).replace("\u3002", "."))
    if match is None or _MORE_THAN_A_VALUE.search(match["value"] or ""):
        return None
    return match["said"] + (match["value"] or "")
