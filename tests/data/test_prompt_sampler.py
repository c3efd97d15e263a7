"""Every problem of the stream is trained on once, whatever is cut off, begun ahead, or lost when a run is killed."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from aspo_megatron.data.prompt_sampler import PromptSampler, PromptSlot, SamplerState
from aspo_megatron.data.samples import Problem
from aspo_megatron.data.stream import ProblemStream

PROMPTS = 12


def stream() -> ProblemStream:
    return ProblemStream([Problem(f"p{number}", "", (3,)) for number in range(40)], seed=3)


def all_ranks(ranks: int, cut_off: float = 1.0) -> list[PromptSampler]:
    return [PromptSampler(stream(), PROMPTS, cut_off, rank, ranks) for rank in range(ranks)]


def take_turn(samplers: list[PromptSampler], chance: random.Random, *, last_step: bool = False) -> list[PromptSlot]:
    """A step: each rank trains on as many as it is to, which are those that it had begun and any of the others."""
    used: list[PromptSlot] = []
    left: list[list[PromptSlot]] = []
    for sampler in samplers:
        own, enough = sampler.next_batch(last_step=last_step)
        begun = sum(bool(slot.begun) for slot in own)
        others = own[begun:]
        chance.shuffle(others)
        own = own[:begun] + others
        used += own[:enough]
        left.append([replace(slot, begun=("some",)) for slot in own[enough:]])  # type: ignore[arg-type]
    positions = [[slot.position for slot in part] for part in left]
    for sampler, part in zip(samplers, left, strict=True):
        sampler.carry_over(part, positions)
    return used


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_without_a_cut_off_problems_come_in_the_streams_order(ranks: int) -> None:
    samplers = all_ranks(ranks)
    for step in range(5):
        used = sorted(take_turn(samplers, random.Random(0)), key=lambda slot: slot.number)
        assert [slot.number for slot in used] == list(range(PROMPTS))
        assert [slot.position for slot in used] == list(range(step * PROMPTS, (step + 1) * PROMPTS))
        assert {sampler.state for sampler in samplers} == {SamplerState((step + 1) * PROMPTS)}
        order = stream()
        assert [slot.problem for slot in used] == [order.at(slot.position) for slot in used]


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("cut_off", [0.5, 0.7, 0.9, 1.0])
def test_each_problem_is_used_once_at_most_a_step_late(ranks: int, cut_off: float) -> None:
    samplers = all_ranks(ranks, cut_off)
    chance = random.Random(1)
    used_at: dict[int, int] = {}
    asked_at: dict[int, int] = {}
    for step in range(10):
        before = samplers[0].state.asked
        used = take_turn(samplers, chance, last_step=step == 9)
        assert len({slot.number for slot in used}) == len(used) == PROMPTS
        for slot in used:
            assert slot.position not in used_at
            used_at[slot.position] = step
        asked_at |= dict.fromkeys(range(before, samplers[0].state.asked), step)
        assert len({sampler.state for sampler in samplers}) == 1
    assert sorted(used_at) == list(range(10 * PROMPTS)) == sorted(asked_at)
    assert {used_at[at] - asked_at[at] for at in used_at} <= {0, 1}


@pytest.mark.parametrize(("before", "after"), [(1, 1), (3, 3), (2, 5), (5, 1)])
def test_a_killed_run_loses_and_repeats_nothing(before: int, after: int) -> None:
    """The next step is begun ahead when a state is saved; the run is killed, and goes on with other ranks."""
    samplers = all_ranks(before, 0.7)
    chance = random.Random(2)
    used = [slot.position for _ in range(4) for slot in take_turn(samplers, chance)]
    saved = samplers[0].state
    for sampler in samplers:
        sampler.next_batch(last_step=False)
        assert sampler.state == saved
    again = all_ranks(after, 0.7)
    for sampler in again:
        sampler.load_state(saved)
        assert sampler.state == saved
    used += [slot.position for step in range(4) for slot in take_turn(again, chance, last_step=step == 3)]
    assert sorted(used) == list(range(8 * PROMPTS))


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_more_problems_are_those_that_come_next(ranks: int) -> None:
    samplers = all_ranks(ranks)
    for sampler in samplers:
        sampler.next_batch(last_step=False)
    more = sorted(
        (slot for sampler in samplers for slot in sampler.refill(PROMPTS, 7)[0]),
        key=lambda slot: slot.number,
    )
    assert [slot.number for slot in more] == list(range(PROMPTS, PROMPTS + 7))
    assert [slot.position for slot in more] == list(range(PROMPTS, PROMPTS + 7))
