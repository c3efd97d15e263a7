"""The reward of the section `train`: the share of a word's letters that a response has in their places, backward."""

from __future__ import annotations

from aspo_megatron.data.samples import Problem


def score(problem: Problem, response: str) -> float:
    """Between 0 and 1; letters after the word's last one count against it."""
    wanted = problem.answer or ""
    right = sum(one == other for one, other in zip(wanted, response, strict=False))
    return right / max(len(wanted), len(response))
