"""What a formula or a text says as an answer, read as a whole, and the bound on what that may cost."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from itertools import groupby
from typing import Any

from latex2sympy2_extended.latex2sympy2 import latex2sympy
from latex2sympy2_extended.math_normalization import normalize_latex
from latex2sympy2_extended.sets import FiniteSet
from math_verify import ExprExtractionConfig, LatexExtractionConfig
from math_verify.grader import should_treat_as_complex
from math_verify.parser import get_extraction_regexes

from aspo_megatron.rewards.mathematics.cost.closed_forms import evaluated
from aspo_megatron.rewards.mathematics.cost.magnitude import Size
from aspo_megatron.rewards.mathematics.cost.sympy_size import sympy_size
from aspo_megatron.rewards.mathematics.forms.measures import qualifies
from aspo_megatron.rewards.mathematics.forms.options import read_option
from aspo_megatron.rewards.mathematics.forms.products import has_numbers_beside
from aspo_megatron.rewards.mathematics.forms.tidy import split_list, tidied
from aspo_megatron.rewards.mathematics.reading.formula import ANSWER_IS, boxed, is_boxed, is_too_big, last_side, unboxed
from aspo_megatron.rewards.mathematics.sentences.formula import REFUSED, said
from aspo_megatron.rewards.mathematics.sentences.tokens import Tokens
from aspo_megatron.rewards.mathematics.sentences.words import is_negated

TARGETS = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())

# Units are taken off before, by `tidied`: math-verify takes off variables, too, and leaves what it cannot read.
_NORMALIZATION = replace(TARGETS[0].normalization_config, units=False, boxed="none")
_LATEX = re.compile(r"(?:first|next\d)_latex")
_GOES_ON = re.compile(r"[,;]\s*(?:\\[lc]?dots[a-z]?(?![a-zA-Z])|\.\.\.|\u2026)[^=]*\Z")
_OPERATION = re.compile(r"\d\s*(?:[-+/^\u00d7\u00f7]|\*\*?)\s*\(?\d")
_LETTER = re.compile(r"\w")
_MORE_SAID = re.compile(r"[.a-z] .*=.*\d", re.IGNORECASE)
_SPACING = re.compile(r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|q?quad)(?![a-zA-Z])|\\[,;:! ]|\s|\\text(?=\{)")
_BETWEEN_DIGITS = re.compile(r"(?<=\d)(?:\\[,;:! ]|[\s~])+(?=\d)")
_FRACTION = re.compile(r"\\[dtc]frac(?![a-zA-Z])")


class TooBigError(Exception):
    """Computing an answer could take for ever. `text` is the answer."""

    def __init__(self, text: str) -> None:
        super().__init__("the answer is too big to be computed")
        self.text = text


def read_answer(formula: str, limit: Size) -> list[Any]:
    """What is read, if it can be read as a whole, and as it is written; nothing if there is no answer.

    Args:
        formula: a formula in a box, or a text to find one in.
        limit: for each formula that would be read.

    Raises:
        TooBigError: one exceeds it.
    """
    found = formula if is_boxed(formula) else last_formula(formula, limit)
    text = tidied(unboxed(found)) if found is not None else ""
    if not text:
        return []
    read = _read_whole(text, limit)
    return [written(text)] if read is None else [read, written(text)]


def _read_whole(text: str, limit: Size) -> Any:
    """All of a tidy formula; None if some of it cannot be read."""
    if qualifies(text) or has_numbers_beside(text):
        return None
    normalized = normalized_latex(text)
    if is_too_big(normalized, limit):
        raise TooBigError(normalized)
    read = _parsed(normalized)
    if read is None:
        read = _read_members(text, limit) or _read_after_name(text, limit)
    if read is None:
        return None
    if not sympy_size(read).fits(limit):
        raise TooBigError(normalized)
    return evaluated(read)


def _read_members(text: str, limit: Size) -> Any:
    """A list whose members can be read alone."""
    members = [part for part in split_list(text) if part not in (",", ";")]
    if len(members) == 1 or not all(member.strip() for member in members):
        return None
    read = [_read_whole(member.strip(), limit) for member in members]
    return None if any(each is None for each in read) else FiniteSet(*read)


def _read_after_name(text: str, limit: Size) -> Any:
    """The last side of a chain of equals signs whose first one, a name or a number, cannot be read."""
    last = last_side(text)
    return None if last is None or not unboxed(last).strip() else _read_whole(unboxed(last).strip(), limit)


def normalized_latex(text: str) -> str:
    """What math-verify makes of a tidy formula before it is read."""
    normalized: str = normalize_latex(text, _NORMALIZATION)
    return normalized


@lru_cache(maxsize=256)
def _parsed(normalized: str) -> Any:
    try:
        return latex2sympy(
            normalized,
            is_real=not should_treat_as_complex(normalized),
            convert_degrees=False,
            normalization_config=None,
        )
    except Exception:  # Whatever it raises, and it raises much: it cannot be read.
        return None


def forget_parsed() -> None:
    """Drop what was read."""
    _parsed.cache_clear()


def written(text: str, space: str = "") -> str:
    """A tidy formula as it is written, but for space between anything but digits, and `space` for it."""
    apart = _BETWEEN_DIGITS.sub("\0", _FRACTION.sub(r"\\frac", text))
    return _SPACING.sub(space, apart).replace("\0", " ")


def last_formula(text: str, limit: Size) -> str | None:
    """The last formula or number of a text, those after `answer` first, in a box; None if there is none.

    One that cannot be read counts only if no other is there, and no part of it is another one. A number is no answer
    that is part of a plain formula; that is one if it is all that is said. What is said to be wrong is none.

    Args:
        text: any.
        limit: for each formula that would be read.

    Raises:
        TooBigError: one exceeds it.
    """
    tokens = Tokens(text)
    stated = _stated(tokens)
    if stated is not None:
        return None if stated == REFUSED else _checked(stated, limit)
    patterns = [(pattern, priority) for found, _ in get_extraction_regexes(TARGETS) for pattern, priority in found]
    unread: list[tuple[int, int]] = []
    first = None
    for _, group in groupby(sorted(patterns, key=lambda entry: entry[1]), key=lambda entry: entry[1]):
        matches = [match for pattern, _ in group for match in pattern.finditer(text)]
        for match in sorted(matches, key=lambda found: (found.end(), -found.start()), reverse=True):
            groups = {name: content for name, content in match.groupdict().items() if content}
            formulas = any(map(_LATEX.match, groups))
            start, end = match.span()
            if not formulas and any(start < last and begin < end for begin, last in unread):
                continue
            begins = min(map(match.start, groups))
            if is_negated(text, begins):
                continue
            whole = _whole(tokens, begins, max(map(match.end, groups)), formulas)
            if whole is not None:
                return None if whole == REFUSED else _checked(whole, limit)
            content = _content(groups)
            option = read_option(content)
            tidy = tidied(content if option.value is None else option.value)
            if is_too_big(content, limit):
                raise TooBigError(content)
            if tidy and _read_whole(tidy, limit) is not None:
                return boxed(content)
            if formulas:
                first = first or content
            if formulas or _OPERATION.search(content):
                unread.append((start, end))
    return None if first is None else boxed(first)


def _whole(tokens: Tokens, begins: int, ends: int, formulas: bool) -> str | None:
    """The plain formula that a match is part of; None if it is all of it."""
    last = tokens.starting_before(ends)
    if formulas:
        return said(tokens, tokens.starting_before(begins + 1), last, lists=False)
    while last > 0 and tokens[last].kind != "number":
        last -= 1
    first = last
    while tokens[first - 1].kind == "sign" and tokens[first - 1].start >= begins and first == last:
        first -= tokens[first - 1].text == "-" and not tokens[first].spaced
        break
    return said(tokens, first, last)


def _stated(tokens: Tokens) -> str | None:
    """The formula that is right behind the last `answer is`; None if other words are there."""
    starts = list(ANSWER_IS.finditer(tokens.text))
    if not starts:
        return None
    first = tokens.starting_before(starts[-1].end()) + 1
    while tokens[first].text in ("=", "+") or (tokens[first].kind == "stop" and tokens[first].text == r"\approx"):
        first += 1
    if _LETTER.search(tokens.text[starts[-1].end() : tokens[first].start]):
        return None
    first = _behind_option(tokens, first)
    last = first
    while tokens[last].text in ("-", r"\pm") and tokens[last].kind == "sign":
        last += 1
    if tokens[last].kind == "open":
        last = tokens.pairs.get(last, last)
    elif tokens[last].kind not in ("number", "variable", "function", "command"):
        return None
    rest = tokens.text[tokens[last].end :].partition("\n")[0]
    if ":" in starts[-1][0] and _MORE_SAID.search(rest):
        return None
    whole = said(tokens, first, last, from_here=True)
    return tokens.text[tokens[first].start : tokens[last].end] if whole is None else whole


def _behind_option(tokens: Tokens, first: int) -> int:
    """The first token of the value behind the letter of an option in brackets; the same if there is none."""
    start = first + (tokens[first].kind == "open")
    is_option = tokens[start].kind == "variable" and tokens[start].text.isupper() and tokens[start + 1].text == ")"
    return start + 2 if is_option and tokens[start + 2].kind in ("number", "command") else first


def _checked(content: str, limit: Size) -> str:
    """A formula in a box.

    Raises:
        TooBigError: it exceeds the limit.
    """
    if is_too_big(content, limit):
        raise TooBigError(content)
    return boxed(content)


def _content(groups: Mapping[str, str]) -> str:
    """The formulas or the number of a match."""
    percent = r"\%" if any(name.endswith("percent") for name in groups) else ""
    latex = [content for name, content in groups.items() if _LATEX.match(name)]
    if latex:
        return ", ".join(latex) + percent
    number = "".join(content for name, content in groups.items() if name.startswith(("integer", "decimal")))
    return (groups.get("expr") or number.replace(" ", "")) + percent


def goes_on(formula: str) -> bool:
    r"""Whether a list, in the last side of a formula, is not given in full: `1,2,\ldots`, which is read as 1 and 2."""
    return _GOES_ON.search(formula) is not None
