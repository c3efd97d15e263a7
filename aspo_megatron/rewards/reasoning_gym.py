"""The reward `reasoning_gym`: what the problem's task family gives for the answer.

Some families give part of the credit to an answer that contains the right one, e.g. 0.5 for 17 where 7 is right.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from reasoning_gym import get_score_answer_fn

from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards.text import extract_answer


def score(problem: Problem, response: str) -> float:
    """Score the response's answer (see `extract_answer`) by the family's own rule.

    Raises:
        ValueError: the problem does not come from reasoning-gym.
    """
    if "family" not in problem.metadata or "entry" not in problem.metadata:
        raise ValueError(f"problem {problem.id} does not come from reasoning-gym")
    rule = _rule(problem.metadata["family"])
    return rule(answer=extract_answer(response, problem.answer), entry=problem.metadata["entry"])


@cache
def _rule(family: str) -> Callable[..., float]:
    rule: Callable[..., float] = get_score_answer_fn(family)
    return rule
