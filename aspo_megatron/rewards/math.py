r"""The reward `math`: 1 if the response's answer equals the reference by math-verify's rules, else 0.

The answer of a response is its last `\boxed{...}`, else its last `<answer>` tag, else what follows `####`, else the
last formula or number in it. An answer that is a word or a letter counts only in a box or a tag.
"""

from __future__ import annotations

import logging
import re
from functools import lru_cache
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.formula import MAX_LENGTH, choose_side, find_formula, is_too_big, says_unequal

# math-verify warns that its own time limit is off; the reward pool's holds instead (it also ends C code).
logging.getLogger("math_verify").setLevel(logging.ERROR)

_BOXED_FIRST = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())
_LETTER = re.compile(r"\(?[A-Z]\)?")


def score(problem: Problem, response: str) -> float:
    """Compare the response's answer with `problem.answer`.

    An answer that says what something is not, or that is too big to compute and is not written as the reference is,
    is wrong.

    Raises:
        ValueError: the problem has no reference answer, or one that math-verify cannot read.
    """
    text = _reference_text(problem.answer or "")
    boxed = f"\\boxed{{{text}}}"
    formula = find_formula(response, max(MAX_LENGTH, 3 * len(text)))
    if formula is not None:
        formula = choose_side(formula, _LETTER.fullmatch(text) is not None)
        if text and _squeezed(formula) == _squeezed(boxed):
            return 1.0
    reference = _parse_reference(text)
    if not reference:
        raise ValueError(f"math-verify cannot read the reference answer {problem.answer!r} of problem {problem.id}")
    if formula is None or is_too_big(formula) or (says_unequal(formula) and not says_unequal(boxed)):
        return 0.0
    answer = parse(formula, _BOXED_FIRST, parsing_timeout=None)
    return float(verify(reference, answer, timeout_seconds=None))


def _squeezed(formula: str) -> str:
    return "".join(formula.split())


def _reference_text(answer: str) -> str:
    """A reference answer, or what GSM8K's text has after `####`."""
    return answer.rpartition("####")[2].strip()


@lru_cache(maxsize=4096)
def _parse_reference(formula: str) -> list[Any]:
    r"""Parse a reference answer: a formula with or without `$` or `\boxed`."""
    if not formula:
        return []
    # Without delimiters math-verify reads only numbers, and would take 2 for 2x+1.
    if "\\boxed" not in formula and "$" not in formula:
        formula = f"\\boxed{{{formula}}}"
    parsed: list[Any] = parse(formula, _BOXED_FIRST, parsing_timeout=None)
    return parsed
