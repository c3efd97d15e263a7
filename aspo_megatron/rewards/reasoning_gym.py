"""The reward `reasoning_gym`: what the problem's task family gives for the answer.

Some families give part of the credit to an answer that contains the right one, e.g. 0.5 for 17 where 7 is right.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from reasoning_gym import get_score_answer_fn

from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.cpu_clock import CPU_SECONDS, OutOfTimeError, cpu_limit
from aspo_megatron.rewards.plain_answers import Computes, computes, is_plain
from aspo_megatron.rewards.text import extract_answer, named


def score(problem: Problem, response: str, *, seconds: float = CPU_SECONDS) -> float:
    """Score the response's answer (see `extract_answer`) by the family's own rule.

    One that the rule should not be given (see `plain_answers`) counts as no answer, and one that it takes longer for
    than `seconds` of processor time is wrong.

    Raises:
        ValueError: the problem does not come from reasoning-gym.
    """
    if "family" not in problem.metadata or "entry" not in problem.metadata:
        raise ValueError(f"{named(problem)} does not come from reasoning-gym")
    rule, kind = _rule(problem.metadata["family"])
    answer = extract_answer(response, problem.answer)
    try:
        with cpu_limit(seconds):
            entry = problem.metadata["entry"]
            is_safe = is_plain(answer, problem.answer or "", kind) and _uses_numbers(answer, problem.metadata)
            return rule(answer=answer if is_safe else "", entry=entry)
    except OutOfTimeError:
        return 0.0


def _uses_numbers(answer: str, metadata: Mapping[str, Any]) -> bool:
    """Whether the numbers are those of the problem, which the rule of puzzle24 does not look at."""
    if metadata["family"] != "puzzle24":
        return True
    numbers = metadata["entry"]["metadata"]["numbers"]
    return sorted(re.findall(r"\d+", answer)) == sorted(map(str, numbers))


@cache
def _rule(family: str) -> tuple[Callable[..., float], Computes]:
    rule: Callable[..., float] = get_score_answer_fn(family)
    return rule, computes(rule)
