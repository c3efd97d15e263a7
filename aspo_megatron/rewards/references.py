r"""Reference answers of mathematics: their text, how they are read, and which ones nothing can be read in."""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any

from math_verify import parse

from aspo_megatron.rewards.answers import TARGETS
from aspo_megatron.rewards.cpu_clock import CPU_SECONDS, OutOfTimeError, cpu_limit
from aspo_megatron.rewards.formula import MAX_LENGTH, is_too_big

_BOX = "\\boxed"
_WRAPPING = re.compile(
    r"\\(?:boxed|fbox|text|textbf|textrm|textit|mathrm|mathbf|mbox|displaystyle|q?quad|left|right)(?![a-zA-Z])"
    r"|\\[,;:!$ ()\[\]]|[\s{}$\\\u200b-\u200f\u2060\ufeff]"
)
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
def parse_reference(formula: str) -> list[Any]:
    r"""Parse a reference answer: a formula with or without `$` or `\boxed`; an empty list if nothing can be read."""
    if not formula:
        return []
    # Without delimiters math-verify reads only numbers, and would take 2 for 2x+1. `\$` is currency, and none.
    if _BOX not in formula and "$" not in formula.replace("\\$", ""):
        formula = f"{_BOX}{{{formula}}}"
    parsed: list[Any] = parse(formula, TARGETS, parsing_timeout=None)
    return parsed


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
    """Whether delimiters do not match, so that math-verify may find nothing between them."""
    return "\\$" in text or text.count("$") % 2 == 1 or text.count("{") != text.count("}")


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
