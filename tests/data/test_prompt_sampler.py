"""Every problem of the stream is trained on once, whatever is cut off, begun ahead, or lost when a run is killed."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from aspo_megatron.data.prompt_sampler import Asking, Question, Standing
from aspo_megatron.data.samples import Problem
from aspo_megatron.data.stream import ProblemStream

PROMPTS = 12


def stream() -> ProblemStream:
    return ProblemStream([Problem(f"p{number}", "", (3,)) for number in range(40)], seed=3)


def all_ranks(ranks: int, cut_off: float = 1.0) -> list[Asking]:
    return [Asking(stream(), PROMPTS, cut_off, rank, ranks) for rank in range(ranks)]


def take_turn(askings: list[Asking], chance: random.Random, *, last_step: bool = False) -> list[Question]:
    """A step: each rank trains on as many as it is to, which are those that it had begun and any of the others."""
    used: list[Question] = []
    left: list[list[Question]] = []
    for asking in askings:
        own, enough = asking.first(last_step=last_step)
        begun = sum(bool(question.begun) for question in own)
        others = own[begun:]
        chance.shuffle(others)
        own = own[:begun] + others
        used += own[:enough]
        left.append([replace(question, begun=("some",)) for question in own[enough:]])
    positions = [[question.position for question in part] for part in left]
    for asking, part in zip(askings, left, strict=True):
        asking.carry(part, positions)
    return used


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_without_a_cut_off_problems_come_in_the_streams_order(ranks: int) -> None:
    askings = all_ranks(ranks)
    for step in range(5):
        used = sorted(take_turn(askings, random.Random(0)), key=lambda question: question.number)
        assert [question.number for question in used] == list(range(PROMPTS))
        assert [question.position for question in used] == list(range(step * PROMPTS, (step + 1) * PROMPTS))
        assert {asking.standing for asking in askings} == {Standing((step + 1) * PROMPTS)}
        order = stream()
        assert [question.problem for question in used] == [order.at(question.position) for question in used]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("cut_off", [0.5, 0.7, 0.9, 1.0])
def test_each_problem_is_used_once_at_most_a_step_late(ranks: int, cut_off: float) -> None:
    askings = all_ranks(ranks, cut_off)
    chance = random.Random(1)
    used_at: dict[int, int] = {}
    asked_at: dict[int, int] = {}
    for step in range(10):
        before = askings[0].standing.asked
        used = take_turn(askings, chance, last_step=step == 9)
        assert len({question.number for question in used}) == len(used) == PROMPTS
        for question in used:
            assert question.position not in used_at
            used_at[question.position] = step
        asked_at |= dict.fromkeys(range(before, askings[0].standing.asked), step)
        assert len({asking.standing for asking in askings}) == 1
    assert sorted(used_at) == list(range(10 * PROMPTS)) == sorted(asked_at)
    assert {used_at[at] - asked_at[at] for at in used_at} <= {0, 1}


@pytest.mark.parametrize(("before", "after"), [(1, 1), (3, 3), (2, 5), (5, 1)])
def test_a_killed_run_loses_and_repeats_nothing(before: int, after: int) -> None:
    """The next step is begun ahead when a state is saved; the run is killed, and goes on with other ranks."""
    askings = all_ranks(before, 0.7)
    chance = random.Random(2)
    used = [question.position for _ in range(4) for question in take_turn(askings, chance)]
    saved = askings[0].standing
    for asking in askings:
        asking.first(last_step=False)
        assert asking.standing == saved
    again = all_ranks(after, 0.7)
    for asking in again:
        asking.go_on(saved)
        assert asking.standing == saved
    used += [question.position for step in range(4) for question in take_turn(again, chance, last_step=step == 3)]
    assert sorted(used) == list(range(8 * PROMPTS))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_more_problems_are_those_that_come_next(ranks: int) -> None:
    askings = all_ranks(ranks)
    for asking in askings:
        asking.first(last_step=False)
    more = sorted(
        (question for asking in askings for question in asking.more(PROMPTS, 7)[0]),
        key=lambda question: question.number,
    )
    assert [question.number for question in more] == list(range(PROMPTS, PROMPTS + 7))
    assert [question.position for question in more] == list(range(PROMPTS, PROMPTS + 7))
