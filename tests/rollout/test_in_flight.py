"""What is in flight is waited for, cut off or given up as a whole; a response in parts is one response.

No server: a response here is a coroutine that waits to be told to go on.
"""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from aspo_megatron.data.samples import Problem, Sample
from aspo_megatron.rollout.client import Completion
from aspo_megatron.rollout.engine import Request, WhenComplete
from aspo_megatron.rollout.loop_thread import LoopThread
from aspo_megatron.rollout.sglang.in_flight import InFlight, Response
from aspo_megatron.rollout.sglang.partial_response import empty_response, extend
from aspo_megatron.rollout.stop_rule import StopRule

from .conftest import END, make_tokenizer

LIMIT = 6
RULE = StopRule(frozenset({END}), (), make_tokenizer(97))


def completion(*tokens: int, finish: str = "abort") -> Completion:
    return Completion(list(tokens), [-0.5 * token for token in tokens], finish, "8", None)  # type: ignore[arg-type]


class Writer:
    """Writes a response's tokens 10, 11 and so on when told how many; an abort gives what there is."""

    def __init__(self) -> None:
        self.done: dict[int, asyncio.Event] = {}
        self.aborted: list[str] = []
        self.waiting_for_a_server: set[int] = set()

    async def abort(self, rid: str) -> None:
        self.aborted.append(rid)
        self.done[int(rid)].set()

    async def write(self, response: Response) -> Sample:
        group = response.request.group
        self.done[group] = asyncio.Event()
        if group in self.waiting_for_a_server:
            await asyncio.sleep(3600)
        with response.asking(self, str(group)):  # type: ignore[arg-type]
            await self.done[group].wait()
        part = completion(10, 11) if response.cut else completion(10, 11, END, finish="stop")
        return extend(response.so_far, part, [(8, len(part.token_ids))], RULE, LIMIT)


@pytest.fixture
def loop() -> Iterator[LoopThread]:
    loop = LoopThread("test")
    yield loop
    loop.close()


def request(number: int, *begun: Sample) -> Request:
    return Request(Problem(f"p{number}", "", (3, 4)), max(1, len(begun)), (0,), number, begun)


def in_flight(
    loop: LoopThread, writer: Writer, requests: list[Request], enough: int | None, tell: WhenComplete | None = None
) -> InFlight:
    rows = [[Response(asked, 0, so_far) for so_far in asked.begun or [empty_response(asked)]] for asked in requests]
    generation = InFlight(loop, rows, writer.write, enough, tell)
    deadline = time.monotonic() + 10
    while len(writer.done) < sum(row[-1].so_far.finish_reason == "abort" for row in rows):
        assert time.monotonic() < deadline
        time.sleep(0.001)
    return generation


def finishes(groups: list[list[Sample]]) -> list[list[str]]:
    return [[sample.finish_reason for sample in group] for group in groups]


def test_all_are_waited_for(loop: LoopThread) -> None:
    writer = Writer()
    generation = in_flight(loop, writer, [request(number) for number in range(4)], None)
    for number in range(3):
        loop.call(writer.done[number].set)
    assert not generation.wait(0.05)
    loop.call(writer.done[3].set)
    assert generation.wait(10)
    assert finishes(generation.result()) == [["stop"]] * 4
    assert writer.aborted == []


def test_a_request_is_told_of_while_others_are_in_flight(loop: LoopThread) -> None:
    writer, told = Writer(), queue.SimpleQueue[tuple[int, list[Sample]]]()
    requests = [request(number) for number in range(4)]
    generation = in_flight(loop, writer, requests, 2, lambda asked, samples: told.put((asked.group, samples)))
    loop.call(writer.done[2].set)
    number, samples = told.get(timeout=10)
    assert number == 2
    assert not generation.done
    loop.call(writer.done[1].set)
    assert generation.wait(10)
    assert generation.result()[2] is samples
    assert told.get(timeout=10)[0] == 1
    assert told.empty()  # what was cut is not complete


def test_nothing_is_cut_before_somebody_waits(loop: LoopThread) -> None:
    writer = Writer()
    generation = in_flight(loop, writer, [request(number) for number in range(4)], 2)
    for number in (1, 3):
        loop.call(writer.done[number].set)
    time.sleep(0.05)
    assert not generation.done
    assert generation.wait(10)
    assert finishes(generation.result()) == [["abort"], ["stop"], ["abort"], ["stop"]]
    assert sorted(writer.aborted) == ["0", "2"]
    cut = generation.result()[0][0]
    assert (cut.response_ids.tolist(), cut.versions, cut.weight_version) == ([10, 11], ((8, 2),), 8)


def test_what_was_begun_before_is_waited_for_and_only_its_missing_part_is_asked(loop: LoopThread) -> None:
    writer = Writer()
    whole = extend(empty_response(request(0)), completion(20, END, finish="stop"), [(7, 2)], RULE, LIMIT)
    part = extend(empty_response(request(0)), completion(20, 21), [(7, 2)], RULE, LIMIT)
    requests = [request(0, whole, part), request(1), request(2), request(3)]
    generation = in_flight(loop, writer, requests, 2)
    for number in (1, 2):
        loop.call(writer.done[number].set)
    assert not generation.wait(0.05)  # two are complete, but not the one that was begun
    loop.call(writer.done[0].set)
    assert generation.wait(10)
    groups = generation.result()
    assert finishes(groups) == [["stop", "stop"], ["stop"], ["stop"], ["abort"]]
    assert groups[0][0] is whole
    assert groups[0][1].response_ids.tolist() == [20, 21, 10, 11, END]
    assert groups[0][1].versions == ((7, 2), (8, 3))
    assert writer.aborted == ["3"]


def test_a_request_of_which_a_part_is_cut_is_not_told_of(loop: LoopThread) -> None:
    writer, told = Writer(), queue.SimpleQueue[int]()
    whole = extend(empty_response(request(0)), completion(20, END, finish="stop"), [(7, 2)], RULE, LIMIT)
    part = extend(empty_response(request(0)), completion(20, 21), [(7, 2)], RULE, LIMIT)
    requests = [request(0, whole, part)]
    generation = in_flight(loop, writer, requests, 0, lambda asked, samples: told.put(asked.group))
    assert generation.wait(10)
    assert finishes(generation.result()) == [["stop", "abort"]]
    assert told.empty()


def test_one_that_waits_for_a_server_is_cut_without_a_word(loop: LoopThread) -> None:
    writer = Writer()
    writer.waiting_for_a_server = {1}
    generation = in_flight(loop, writer, [request(0), request(1)], 1)
    loop.call(writer.done[0].set)
    assert generation.wait(10)
    groups = generation.result()
    assert finishes(groups) == [["stop"], ["abort"]]
    assert len(groups[1][0].response_ids) == 0
    assert writer.aborted == []


def test_a_failure_ends_all_and_is_raised(loop: LoopThread) -> None:
    class Failing(Writer):
        async def write(self, response: Response) -> Sample:
            sample = await super().write(response)
            raise OSError(f"group {sample.group}")

    writer = Failing()
    generation = in_flight(loop, writer, [request(number) for number in range(3)], None)
    loop.call(writer.done[1].set)
    assert generation.wait(10)
    with pytest.raises(OSError, match="group 1"):
        generation.result()
    assert loop.run(_others()) == 0


def test_what_is_given_up_is_not_in_flight_any_more(loop: LoopThread) -> None:
    generation = in_flight(loop, Writer(), [request(number) for number in range(3)], None)
    generation.cancel()
    assert generation.done
    assert loop.run(_others()) == 0


async def _others() -> int:
    return len(asyncio.all_tasks()) - 1


def test_no_request_is_complete(loop: LoopThread) -> None:
    generation = in_flight(loop, Writer(), [], 0)
    assert generation.wait(10)
    assert generation.result() == []


# ---- a response in parts ---------------------------------------------------------------------------------------


def grown(*parts: tuple[list[int], str, int], limit: int = LIMIT, rule: StopRule = RULE) -> Sample:
    sample = empty_response(request(5))
    for tokens, finish, version in parts:
        sample = extend(sample, completion(*tokens, finish=finish), [(version, len(tokens))], rule, limit)
    return sample


def test_parts_are_joined_with_the_versions_of_their_tokens() -> None:
    sample = grown(([20, 21], "abort", 7), ([], "abort", 8), ([22], "abort", 8), ([23, END], "stop", 8))
    assert sample.response_ids.tolist() == [20, 21, 22, 23, END]
    assert sample.rollout_log_probs.tolist() == [-10.0, -10.5, -11.0, -11.5, -1.0]
    assert sample.response_mask.tolist() == [True] * 5
    assert (sample.versions, sample.weight_version, sample.finish_reason) == (((7, 2), (8, 3)), 8, "stop")


def test_an_abort_at_the_end_is_no_abort() -> None:
    assert grown(([20, END], "abort", 7)).finish_reason == "stop"
    assert grown(([20, 21, 22], "abort", 7), limit=3).finish_reason == "length"
    assert grown(([20, 21], "abort", 7), limit=3).finish_reason == "abort"


@pytest.mark.parametrize("length", [1, 2, 3])
def test_a_stop_text_may_begin_in_one_part_and_end_in_the_next(length: int) -> None:
    """A server sees it only if it is in what it adds."""
    tokens = [20, 21, 22, 23, 24, 25]
    stop = RULE.tokenizer.decode(tokens[2:4])
    sample = grown(
        (tokens[:length], "abort", 7), (tokens[length:], "length", 8), rule=replace(RULE, stops=("never", stop))
    )
    assert sample.response_ids.tolist() == tokens[:4]
    assert sample.finish_reason == "stop"
    assert sample.versions == ((7, length), (8, 4 - length))
    assert len(sample.rollout_log_probs) == len(sample.response_mask) == 4


def test_a_sample_without_versions_is_all_of_one() -> None:
    sample = replace(empty_response(request(0)), response_ids=np.arange(3), weight_version=4, versions=())
    assert sample.versions == ((4, 3),)
