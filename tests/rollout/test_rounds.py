"""Waiting in rounds, between which the ranks meet."""

from __future__ import annotations

import pytest

from aspo_megatron.rollout.rounds import in_rounds


@pytest.mark.parametrize(
    ("seconds", "comes_in_round", "asked"),
    [(None, 3, [20.0] * 3), (50.0, 9, [20.0] * 2), (50.0, 1, [20.0]), (5.0, 9, [5.0]), (0.0, 9, [0.0])],
)
def test_rounds_end_when_it_comes_or_the_time_is_over(
    seconds: float | None, comes_in_round: int, asked: list[float]
) -> None:
    waits: list[float] = []

    def wait(most: float) -> bool:
        waits.append(most)
        return len(waits) == comes_in_round

    assert in_rounds(wait, seconds) == (len(asked) == comes_in_round)
    assert waits == asked
