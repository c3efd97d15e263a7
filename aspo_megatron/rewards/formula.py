"""Finding the formula that answers a mathematics problem, and telling which ones not to compute."""

from __future__ import annotations

import re
from collections import deque

from aspo_megatron.rewards.latex_size import LIMIT, latex_size
from aspo_megatron.rewards.magnitude import Size
from aspo_megatron.rewards.text import after_thinking

MAX_LENGTH = 1000
"""A longer formula is no answer, unless the reference is of a similar length."""

_WINDOW = 4000
_MAX_BOXES = 64
_BOXED = "\\boxed{"

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{")
_BETWEEN_BOXES = re.compile(r"[\s$.\\()\[\]]*(?:,\s*and|,\s*or|and|or|,)[\s$\\()\[\]]*")
_TAG = re.compile(r"<answer>([^<]*)</answer>")
_NUMBER_WITH_WORDS = re.compile(r"[$€£]?\s*-?[\d.,]+(?:\s*%|\s+[^\d\\]*)?\.?")

_LEADING_NUMBER = re.compile(r"[\s*$€£]*(-?[\d.,]*\d%?)(?!\s*[-+*/^\\=\d])")

_SEPARATOR = re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\[,!; ]|~|[\u2009\u202f])(?=\d{3}(?!\d))")
_NUMBER_IN_TEXT = re.compile(r"\\(?:text|textbf|textrm|mathrm|mathbf|mbox|bm)\s*\{\s*(-?[\d.,]+)\s*\}")
_LABEL = (
    r"(?:\(?\\(?:text|textbf|textrm|mathrm|mathbf|mbox|bm)\s*\{\s*\(?(?P<a>[A-Z])\)?[.:]?\s*\}\)?[.:]?"
    r"|\(?(?P<b>[A-Z])[).:])"
)
_CHOICE = re.compile(_LABEL + r"(?:\\[ ,;:!]|\\quad|~|\s)*(?=\S)")

_EQUALS = re.compile(r"(?<![\\<>!:])=")
_UNEQUAL = re.compile(r"\\(?:neq?|not)(?![a-zA-Z])|≠")


def find_formula(response: str, max_length: int) -> str | None:
    r"""The part of a response that math-verify is to read; None if there is nothing that could be an answer.

    After the thinking: the last `\boxed{...}` (those joined by `and`, `or` or a comma as one list), else the last
    `<answer>...</answer>`, else what follows the last `####`, else the end of the text.

    Args:
        response: any text. The time is linear in its length.
        max_length: a box, a tag or a number with more characters is no answer.
    """
    text = after_thinking(response).replace("\u2212", "-")
    boxes = _last_boxes(text)
    if boxes is not None:
        content = ", ".join(boxes)
        return f"{_BOXED}{_plain_numbers(content)}}}" if len(content) <= max_length else None
    opening = text.rfind("<answer>")
    tag = _TAG.match(text, opening) if opening >= 0 else None
    if tag is not None:
        return _delimited(tag[1].strip()) if len(tag[1]) <= max_length else None
    _, marker, after = text.rpartition("####")
    number = _LEADING_NUMBER.match(after) if marker else None
    if number is not None:
        return number[1] if len(number[1]) <= max_length else None
    if marker and after.strip():
        return _delimited(after.strip().partition("\n")[0][:max_length])
    end = text.rstrip()
    if len(end) > _WINDOW:  # From the beginning of a line or word, so that no number is cut.
        end = re.sub(r"\A\S*", "", end[-_WINDOW:])
    return _plain_numbers(end)


def _last_boxes(text: str) -> list[str] | None:
    """Contents of the last complete box and of those joined to it; an empty list if none is complete, None if none."""
    matches = deque(_BOX.finditer(text), maxlen=_MAX_BOXES)
    contents: list[str] = []
    following = 0
    for match in reversed(matches):
        end = _closing_brace(text, match.end())
        if end is None:
            if contents:
                break
            continue
        if contents and not (end < following and _BETWEEN_BOXES.fullmatch(text, end + 1, following)):
            break
        contents.insert(0, text[match.end() : end])
        following = match.start()
    return contents if matches else None


def _closing_brace(text: str, start: int) -> int | None:
    """Where the brace that was opened before `start` closes, if it does within the window."""
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start, min(len(text), start + _WINDOW)):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None


def _delimited(content: str) -> str:
    """Content of a tag or of the line after `####`: as it stands if it has delimiters or is a number with words."""
    if any(mark in content for mark in ("$", "\\(", "\\[")) and not content.startswith("$ "):
        return _plain_numbers(content)
    content = content.strip("* ")
    if _NUMBER_WITH_WORDS.fullmatch(content):
        return content
    return f"{_BOXED}{_plain_numbers(content)}}}"


def _plain_numbers(formula: str) -> str:
    r"""Numbers without separators such as `\,`, and without a `\text{}` around them."""
    return _NUMBER_IN_TEXT.sub(r"\1", _SEPARATOR.sub("", formula))


def choose_side(formula: str, reference_is_letter: bool) -> str:
    r"""Of an answer such as `\boxed{\textbf{(B)}\ 18}` the letter or the value, whichever the reference is."""
    content = formula.removeprefix(_BOXED).lstrip()
    match = _CHOICE.match(content) if is_boxed(formula) else None
    if match is None or content[match.end() :] == "}":
        return formula
    return f"{_BOXED}{match['a'] or match['b']}}}" if reference_is_letter else _BOXED + content[match.end() :]


def is_too_big(formula: str, limit: Size = LIMIT) -> bool:
    """Whether computing a formula could take for ever, or math-verify for long to read it."""
    return not latex_size(formula).fits(limit)


def last_side(equation: str) -> str | None:
    """The last side of an equation or a chain of them, in a box; None if a text is a list or no equation."""
    side = _EQUALS.split(equation)[-1]
    # Below a sum an equals sign is in braces.
    is_none = side == equation or "," in equation or ";" in equation or side.count("{") != side.count("}")
    return None if is_none else f"{_BOXED}{side}}}"


def is_boxed(formula: str) -> bool:
    """Whether `find_formula` gave one formula, and not a text in which to look for one."""
    return formula.startswith(_BOXED)


def says_unequal(formula: str) -> bool:
    """Whether a formula says what something is not."""
    return is_boxed(formula) and _UNEQUAL.search(formula) is not None
