"""The reward `reasoning_gym`: what the problem's task family gives for the answer.

Some families give part of the credit to an answer that contains the right one, e.g. 0.5 for 17 where 7 is right.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

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
            is_safe = is_plain(answer, problem.answer or "", kind)
            return rule(answer=answer if is_safe else "", entry=problem.metadata["entry"])
    except OutOfTimeError:
        return 0.0


@cache
def _rule(family: str) -> tuple[Callable[..., float], Computes]:
    rule: Callable[..., float] = get_score_answer_fn(family)
    return rule, computes(rule)
