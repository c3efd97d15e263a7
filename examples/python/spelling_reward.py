"""A reward for spelling a word backward. It is imported by processes that only score, and imports no torch."""

from typing import Any


def share_of_letters(problem: Any, response: str) -> float:
    """1 for the right word, else up to a half for the share of letters that are in their places."""
    answer = problem.answer
    if response.strip() == answer:
        return 1.0
    right = sum(one == other for one, other in zip(response.strip(), answer, strict=False))
    return 0.5 * right / len(answer)
