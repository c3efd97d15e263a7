"""Finding the formula that answers a mathematics problem, and telling which ones not to compute."""

from __future__ import annotations

import re
from collections import deque

from aspo_megatron.rewards.mathematics.cost.latex_size import LIMIT, latex_size
from aspo_megatron.rewards.mathematics.cost.magnitude import Size
from aspo_megatron.rewards.mathematics.forms.characters import as_latex
from aspo_megatron.rewards.mathematics.forms.numerals import numbers_in_text
from aspo_megatron.rewards.mathematics.forms.options import read_option
from aspo_megatron.rewards.mathematics.forms.tidy import split_list
from aspo_megatron.rewards.mathematics.forms.words import says_something
from aspo_megatron.rewards.mathematics.sentences.formula import REFUSED, said
from aspo_megatron.rewards.mathematics.sentences.tokens import Tokens
from aspo_megatron.rewards.text import after_thinking

MAX_LENGTH = 1000
"""A longer formula is no answer, unless the reference is of a similar length."""

_WINDOW = 4000
_MAX_BOXES = 64
_BOXED = "\\boxed{"

_BOX = re.compile(r"\\(?:boxed|fbox|framebox)\s*\{")
_SPACES = re.compile(r"\\q?quad(?![a-zA-Z])|\\hspace\{[^{}]*\}|\\[,;:! \\()\[\]]|[\s$*~&.]")
_BREAK = re.compile(r"\n|\\\\|\\q?quad(?![a-zA-Z])")
_ITEM = re.compile(r"(?<=\n)[ \t]*(?:[-*\u2022]|\d{1,2}[.)]|\((?:\d{1,2}|[a-z])\))(?=[ \t$])")
_JOIN = re.compile(
    r"\\(?:text|textrm|mathrm|mbox)\s*\{\s*,?\s*(?:and|or)\s*,?\s*\}|\b(?:and|or)\b|\u548c|\u6216\u8005?|[,;\uff0c\uff1b\u3001]"
)
_NAME = re.compile(r"\A\s*\\?[A-Za-z]+(?:_\{?\w{1,3}\}?)?\s*=\s*\Z")
_LONGEST_JOIN = 80
_LEFT_SIDE = re.compile(r"\A[A-Za-z]=")
_TAG = re.compile(r"<answer>(.*?)</answer>", re.DOTALL)
_MARKER = re.compile(r"####(?!#)([^\n]*)")
_NUMBER_OF_THINGS = re.compile(r"(\\?[$\u20ac\u00a3]?\s*-?\\?\$?\d[\d.,]*)\s+([A-Za-z]{2,})")
ANSWER_IS = re.compile(
    r"(?i:answer)\**\s*(?:is|:)\s*\**:?|\u7b54\u6848?\s*(?:[\u662f\u4e3a]|:)|\u3010\u7b54\u6848\u3011:?"
)
_COUNTED = re.compile(r"(?<=\d)\s*[(\uff08][\u4e00-\u9fff]{1,4}[)\uff09]\Z")
_DOLLARS = re.compile(r"\A\$\s*(\d[^$]*[A-Za-z])\s*\$\Z")
_WORDS_IN_HAN = re.compile(
    r"\A[\u4e00-\u9fff]|\d\s*[\u4e07\u4ebf\u5343\u767e\u534a\u6210]|\d\s*[\u4e00-\u9fff]{1,3}\s*\d"
)
_BEHIND = re.compile(
    r"[ ]?(?:[+\u00b7\u00d7\u00f7]|/\s*\{?\d|\*(?=\s*[\w({\\])|-\s*(?=[\d({\\]|[A-Za-z]\b)"
    r"|\^(?!\s*\{?\s*\\(?:circ|degree|text|prime))|!(?=\S)|\{\s*\d"
    r"|\\(?:times|cdot|div|pi|sqrt|[dt]?frac)(?![a-z])|\\(?:pm|mp)(?![a-z]|\s*\d))|[A-Za-z](?![A-Za-z])|\d|\((?=[\w\\])"
)
_COMMAND = re.compile(r"\\[a-zA-Z]+\s*(?:\{[A-Za-z ,.~]*\})?")
_WORD = re.compile(r"(?<![A-Za-z\\{_^])[A-Za-z]{2,}(?![A-Za-z({^_])")

_NAMES = re.compile(r"(?:[A-Za-z\s'|]|\\[a-zA-Z]+|\\[ ,;:!|]|_(?:\w|\{[^{}]*\})|\{[A-Za-z\s]*\}|\([^()=]*\))+")
_NUMBERS = re.compile(r"\s*\\(?:sum|prod|i{0,3}nt|oint|lim)(?![a-zA-Z])")
_IN_BRACES = re.compile(r"\{[^{}]*\}")
_VARIABLE = re.compile(r"(?<![A-Za-z\\])[A-Za-z](?![A-Za-z])")
EQUALS = re.compile(r"(?<![\\<>!:])=")
"""The sign of equations, and of no relation."""

_UNEQUAL = re.compile(r"\\(?:neq?|not)(?![a-zA-Z])|≠")


def find_formula(response: str, max_length: int) -> str | None:
    r"""The part of a response that math-verify is to read; None if there is nothing that could be an answer.

    After the thinking: the last `\boxed{...}` (those joined by `and`, `or` or a comma as one list), else the last
    `<answer>...</answer>`, else what follows the last `####`, else the end of the text.

    Args:
        response: any text. The time is linear in its length.
        max_length: a box, a tag or a number with more characters is no answer.
    """
    text = after_thinking(response)
    boxes = _last_boxes(text)
    if boxes is not None:
        content = ", ".join({_LEFT_SIDE.sub("", "".join(box.split())): box for box in boxes}.values())
        return f"{_BOXED}{content}}}" if len(content) <= max_length else None
    tag = _last_tag(text)
    if tag is not None:
        return _stated(tag.strip()) if len(tag) <= max_length else None
    marker = _last_marker(text)
    if marker is not None:
        return _stated(marker) if len(marker) <= max_length else None
    end = text.rstrip()
    if len(end) > _WINDOW:  # From the beginning of a line or word, so that no number is cut.
        end = re.sub(r"\A\S*", "", end[-_WINDOW:])
    return numbers_in_text(as_latex(end))


def last_statement(response: str) -> str:
    """What a response says the answer is, word for word: its last tag, the line after `####`, or after `answer is`."""
    text = after_thinking(response).rstrip()
    tag = _last_tag(text)
    if tag is not None:
        return tag
    before, marker, after = text.rpartition("####")
    found = (after if marker and not before.endswith("#") else text)[-_WINDOW:]
    return ANSWER_IS.split(found)[-1]


def _last_tag(text: str) -> str | None:
    """What is in the last `<answer>` tag, if that is closed."""
    opening = text.rfind("<answer>")
    tag = _TAG.match(text, opening) if opening >= 0 else None
    return None if tag is None else tag[1]


def _last_marker(text: str) -> str | None:
    """What follows the last `####` in its line, if that is an answer and no heading.

    A heading has words, and something below it. Numbers and formulas are answers wherever they are.
    """
    start = text.rfind("####")
    while start > 0 and text[start - 1] == "#":
        start -= 1
    match = _MARKER.match(text, start) if start >= 0 else None
    if match is None or not match[1].strip("* \t"):
        return None
    return None if has_prose(match[1]) and text[match.end() :].strip() else match[1].strip()


def _stated(content: str) -> str | None:
    """Content of a tag or of a line after `####`: one formula in a box, or a text to look in if it is a sentence.

    None if it begins with a number and words that make something else of it.
    """
    content = content.strip("*` ")
    lead = ANSWER_IS.match(content)
    if lead is not None and not lead[0].isascii():
        content = content[lead.end() :].strip("*` ")
    content = _COUNTED.sub("", _DOLLARS.sub(r"\1", content))
    if read_option(content).letter is not None:
        return boxed(content)
    number = _NUMBER_OF_THINGS.match(content)
    if number is not None and (says_something(number[2]) or number[2].lower() in ("and", "or")):
        return _counted(content, number)
    has_words = has_prose(content) or _WORDS_IN_HAN.search(content) is not None
    is_sentence = has_words and any(map(str.isdecimal, content))
    return numbers_in_text(as_latex(content)) if is_sentence else boxed(content)


def _counted(content: str, number: re.Match[str]) -> str | None:
    """The number of things at the beginning, with what the words behind it make of it; None if that is no number."""
    tokens = Tokens(numbers_in_text(as_latex(content)))
    last = 1 if tokens[0].text == "-" else 0
    whole = said(tokens, 0, last, from_here=True) if tokens[last].kind == "number" else REFUSED
    if whole == REFUSED or (whole is None and number[2].lower() in ("and", "or")):
        return None
    return boxed(number[1] if whole is None else whole)


def has_prose(content: str) -> bool:
    """Whether there are words of a language outside of LaTeX."""
    return any(map(says_something, _WORD.findall(_COMMAND.sub(" ", content))))


def _last_boxes(text: str) -> list[str] | None:
    """Contents of the last complete box and of those joined to it; an empty list if none is complete, None if none."""
    matches = deque(_BOX.finditer(text), maxlen=_MAX_BOXES)
    contents: list[str] = []
    following = 0
    for match in reversed(matches):
        end = closing_brace(text, match.end())
        if end is None:
            if contents:
                break
            continue
        if not contents and _goes_on_behind(text, end + 1):
            break
        if contents and not (end < following and _are_joined(text[end + 1 : following])):
            break
        contents.insert(0, text[match.end() : end])
        following = match.start()
    return contents if matches else None


def _goes_on_behind(text: str, start: int) -> bool:
    r"""Whether the formula with a box goes on behind it: `\boxed{3}+x`; that of an equation may: `\boxed{3}+4=7`."""
    if _BEHIND.match(text, start) is None:
        return False
    rest = text[start : start + _LONGEST_JOIN]
    return "=" not in re.split(r"\n|\$|\\[)\]]|\\text|[A-Za-z]{2,} ", rest, maxsplit=1)[0]


def _are_joined(between: str) -> bool:
    """Whether boxes with this between them are one list: a comma, `and` or a break, no other text but `x =`."""
    if len(between) > _LONGEST_JOIN:
        return False
    plain = _SPACES.sub(" ", _ITEM.sub(" ", between))
    joined = _JOIN.sub(" ", plain)
    return (joined != plain or _BREAK.search(between) is not None) and not _NAME.sub("", joined).strip()


def closing_brace(text: str, start: int) -> int | None:
    """Where the brace that was opened before `start` closes, if it does within the window."""
    depth = 1
    for match in re.compile(r"\\.|[{}]", re.DOTALL).finditer(text, start, min(len(text), start + _WINDOW)):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return match.start()
    return None


def is_too_big(formula: str, limit: Size = LIMIT) -> bool:
    """Whether computing a formula could take for ever, or math-verify for long to read it."""
    return not latex_size(formula).fits(limit)


def last_side(equation: str) -> str | None:
    """The last side of an equation or a chain, in a box, if the first one is the name of something or a number.

    A sum, an integral or a limit is as good as a number. None if it is none of these, and of a list.
    """
    first, *others = EQUALS.sub("\0", _IN_BRACES.sub(lambda match: match[0].replace("=", "\1"), equation)).split("\0")
    if not others or len(split_list(equation)) > 1:
        return None
    tells = _NAMES.fullmatch(first) or _NUMBERS.match(first) or not _VARIABLE.search(first)
    return boxed(others[-1].replace("\1", "=")) if tells else None


def is_boxed(formula: str) -> bool:
    """Whether `find_formula` gave one formula, and not a text in which to look for one."""
    return formula.startswith(_BOXED)


def boxed(content: str) -> str:
    """A formula in a box, as `find_formula` gives it."""
    return f"{_BOXED}{content}}}"


def unboxed(formula: str) -> str:
    """What is in the box that `find_formula` gave."""
    return formula.removeprefix(_BOXED).removesuffix("}")


def says_unequal(formula: str) -> bool:
    """Whether a formula says what something is not."""
    return _UNEQUAL.search(formula) is not None
