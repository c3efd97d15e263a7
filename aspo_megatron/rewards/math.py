r"""The reward `math`: 1 if the response's answer equals the reference by math-verify's rules, else 0.

The answer of a response is its last `\boxed{...}`, else the last formula or number in it. An answer that is a word
or a letter counts only when boxed.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from typing import Any

from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.text import after_thinking

# math-verify warns that its own time limit is off; the reward pool's holds instead (it also ends C code).
logging.getLogger("math_verify").setLevel(logging.ERROR)

_BOXED_FIRST = (LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig())


def score(problem: Problem, response: str) -> float:
    """Compare the response's answer with `problem.answer`.

    Raises:
        ValueError: the problem has no reference answer, or one that math-verify cannot read.
    """
    reference = _parse_reference(problem.answer or "")
    if not reference:
        raise ValueError(f"math-verify cannot read the reference answer {problem.answer!r} of problem {problem.id}")
    answer = parse(after_thinking(response), _BOXED_FIRST, parsing_timeout=None)
    return float(verify(reference, answer, timeout_seconds=None))


@lru_cache(maxsize=4096)
def _parse_reference(answer: str) -> list[Any]:
    r"""Parse a reference answer: a formula with or without `$` or `\boxed`, or GSM8K's text that ends in `#### 72`."""
    formula = answer.rpartition("####")[2].strip()
    if not formula:
        return []
    # Without delimiters math-verify reads only numbers, and would take 2 for 2x+1.
    if "\\boxed" not in formula and "$" not in formula:
        formula = f"\\boxed{{{formula}}}"
    parsed: list[Any] = parse(formula, _BOXED_FIRST, parsing_timeout=None)
    return parsed
