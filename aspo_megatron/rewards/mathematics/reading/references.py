r"""Reference answers of mathematics: their text, how they are read, and which ones nothing can be read in."""

from __future__ import annotations

import json
import math
import re
from dataclasses import fields
from functools import lru_cache
from typing import Any

from math_verify import parse

from aspo_megatron.rewards.cpu_clock import CPU_SECONDS, OutOfTimeError, cpu_limit
from aspo_megatron.rewards.mathematics.cost.magnitude import Size
from aspo_megatron.rewards.mathematics.reading.answers import TARGETS, read_answer
from aspo_megatron.rewards.mathematics.reading.formula import MAX_LENGTH, closing_brace, is_too_big

_BOX = "\\boxed"
_WRAPPING = re.compile(
    r"\\(?:boxed|fbox|text|textbf|textrm|textit|mathrm|mathbf|mbox|displaystyle|q?quad|left|right)(?![a-zA-Z])"
    r"|\\[,;:!$ ()\[\]]|[\s{}$\\\u200b-\u200f\u2060\ufeff]"
)
_FORMULA = re.compile(r"\$[^$]*\$")
_PROSE = re.compile(r"[A-Za-z]{2,}\s+[A-Za-z]{2,}")
_CURRENCY = re.compile(r"\$\s*-?[\d.]|\d\s*\$")
_ENDLESS = Size(*[math.inf] * len(fields(Size)))
_PUNCTUATION = re.compile(r"[.?,:;!_~'\"`\u2026]")
"""What says nothing alone; signs of operations, relations and brackets may be an answer."""


def reference_text(answer: str) -> str:
    """A reference answer: what GSM8K's text has after `####`, or what Skywork-OR1's JSON lists."""
    text = answer.rpartition("####")[2].strip()
    return _listed(text) if text.startswith("[") and text.endswith("]") else text


def _listed(text: str) -> str:
    """The texts of a JSON list such as `["34"]`; anything else as it is: `[1, 2]` is mathematics."""
    try:
        parts = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return ", ".join(parts).strip() if parts and all(isinstance(part, str) for part in parts) else text


@lru_cache(maxsize=4096)
def parse_reference(text: str) -> list[Any]:
    r"""Read a reference answer: a formula with or without `$` or `\boxed`; an empty list if nothing can be read."""
    if not text or _is_torn(text):
        return []
    if _is_text_with_formulas(text):
        parsed: list[Any] = parse(text, TARGETS, parsing_timeout=None)
        return parsed
    return read_answer(f"{_BOX}{{{text}}}", _ENDLESS)


def _is_text_with_formulas(text: str) -> bool:
    """Whether there is one formula within a sentence, which is the answer then."""
    return _BOX not in text and text.count("$") == 2 and _PROSE.search(_FORMULA.sub(" ", text)) is not None


def flaw(answer: str) -> str | None:
    """What is wrong with a reference answer that no response can be compared with: `empty` or `unreadable`; else None.

    Most are told by their text, in microseconds. math-verify is asked only about those whose delimiters do not match,
    and those in which there seems to be nothing.
    """
    text = reference_text(answer)
    content = _WRAPPING.sub("", text[: 10 * MAX_LENGTH])
    says_nothing = not _PUNCTUATION.sub("", content)
    if not (says_nothing or _may_be_torn(text)) or _can_be_read(text, as_mathematics=says_nothing):
        return None
    return "unreadable" if content else "empty"


def _may_be_torn(text: str) -> bool:
    """Whether delimiters do not match, so that nothing between them is a formula."""
    return "\\$" in text or text.count("$") % 2 == 1 or text.count("{") != text.count("}")


def _is_torn(text: str) -> bool:
    """Whether a box is never closed, or a `$` that is no currency."""
    opened = text.find(_BOX + "{")
    if opened >= 0 and closing_brace(text, opened + len(_BOX) + 1) is None:
        return True
    return text.replace("\\$", "").count("$") == 1 and not _CURRENCY.search(text)


def _can_be_read(text: str, *, as_mathematics: bool) -> bool:
    """Whether math-verify reads something; `as_mathematics`: more than the text as it stands."""
    if is_too_big(text):
        return True  # as far as can be told without computing it
    try:
        with cpu_limit(CPU_SECONDS):
            parsed = parse_reference(text)
    except OutOfTimeError:
        return True
    except Exception:  # Of the many things that reading odd formulas can raise, all mean that it cannot be read.
        return False
    return bool(parsed) and not (as_mathematics and isinstance(parsed[0], str))
