"""The order of training problems: complete epochs, fixed by the seed, resumable from a number."""

from __future__ import annotations

import pytest

from aspo_megatron.data.samples import Problem
from aspo_megatron.data.stream import ProblemStream

PROBLEMS = [Problem(f"p{i}", "", (1,)) for i in range(10)]


def ids(problems: list[Problem]) -> list[str]:
    return [problem.id for problem in problems]


def test_an_epoch_has_every_problem_once_and_the_next_has_another_order() -> None:
    stream = ProblemStream(PROBLEMS, seed=1)
    epochs = [ids(stream.take(10)) for _ in range(3)]
    assert all(sorted(epoch) == ids(PROBLEMS) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_seed_fixes_the_order() -> None:
    assert ids(ProblemStream(PROBLEMS, 1).take(25)) == ids(ProblemStream(PROBLEMS, 1).take(25))
    assert ids(ProblemStream(PROBLEMS, 1).take(10)) != ids(ProblemStream(PROBLEMS, 2).take(10))


@pytest.mark.parametrize("portions", [[1] * 25, [7, 7, 7, 4], [3, 22], [10, 10, 5]])
def test_portions_do_not_change_the_order(portions: list[int]) -> None:
    stream = ProblemStream(PROBLEMS, 1)
    taken = [problem for count in portions for problem in stream.take(count)]
    assert taken == ProblemStream(PROBLEMS, 1).take(25)
    assert stream.position == 25


def test_more_than_an_epoch_at_once() -> None:
    taken = ProblemStream(PROBLEMS[:3], 1).take(8)
    assert sorted(ids(taken[:3])) == sorted(ids(taken[3:6])) == ["p0", "p1", "p2"]


@pytest.mark.parametrize("position", [0, 4, 10, 13])
def test_a_stream_goes_on_from_its_position(position: int) -> None:
    whole = ProblemStream(PROBLEMS, 1).take(20)
    stream = ProblemStream(PROBLEMS, 1)
    stream.position = position
    assert stream.take(20 - position) == whole[position:]
