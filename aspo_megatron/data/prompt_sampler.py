"""Which problems are asked in a step, and what a run that goes on has to ask again.

With `rollout.cut_off` more prompts are asked than a step trains on. Those that are not complete by then are carried
into the next step, where they come first and are waited for. So each problem that is taken from the stream is trained
on once, whole and with all of its responses; only a step later, if they are long.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from aspo_megatron.data.samples import Problem, Sample
from aspo_megatron.data.stream import ProblemStream


@dataclass(frozen=True)
class PromptSlot:
    """A problem of a step: its position in the stream, its number in the step, and the responses begun for it."""

    position: int
    number: int
    problem: Problem
    begun: tuple[Sample, ...] = ()


@dataclass(frozen=True)
class SamplerState:
    """Which problems the finished steps have used: those before `asked` but for the ones at `carried`."""

    asked: int
    carried: tuple[int, ...] = ()


class PromptSampler:
    """Hands this rank its problems. `state` leaves out what is asked but not yet trained on."""

    def __init__(self, stream: ProblemStream, prompts: int, cut_off: float, rank: int, ranks: int) -> None:
        """`prompts`: those that a step trains on, of all ranks. `stream` is the same on all."""
        self._stream, self._prompts, self._cut_off = stream, prompts, cut_off
        self._rank, self._ranks = rank, ranks
        self._carried: list[PromptSlot] = []
        self._carried_by = [0] * ranks
        self.state = SamplerState(stream.position)

    def load_state(self, state: SamplerState) -> None:
        """Go on from a saved state. What the run had carried over is asked anew, from the start."""
        self._stream.position = state.asked
        self.state = state
        parts = [state.carried[rank :: self._ranks] for rank in range(self._ranks)]
        problems = self._stream.deal(parts, self._rank)
        self._carried = [PromptSlot(at, 0, problem) for at, problem in zip(parts[self._rank], problems, strict=True)]
        self._carried_by = [len(part) for part in parts]

    def next_batch(self, *, last_step: bool) -> tuple[list[PromptSlot], int]:
        """This rank's part of what is asked at the beginning of a step, and how many of it the step trains on.

        What was carried comes first. In the last step no more is asked than is trained on.
        """
        total = self._prompts if last_step else ceil(self._prompts / self._cut_off)
        loads = list(self._carried_by)
        numbers: list[int] = []
        enough = loads[self._rank]
        for load in range(sum(loads), total):
            rank = loads.index(min(loads))
            numbers.append(rank + self._ranks * loads[rank])
            loads[rank] += 1
            if load < self._prompts:
                enough = loads[self._rank]
        own = [replace(q, number=self._rank + self._ranks * index) for index, q in enumerate(self._carried)]
        return own + self._taken(numbers), enough

    def refill(self, first_number: int, count: int) -> tuple[list[PromptSlot], int]:
        """As `next_batch`, of `count` further problems, which bear the numbers from `first_number` on."""
        taken = self._taken(list(range(first_number, first_number + count)), first_number)
        return taken, len(taken)

    def carry_over(self, own: Sequence[PromptSlot], positions: Sequence[Sequence[int]]) -> None:
        """Note what a step leaves to the next: the slots of this rank, and the positions of those of every rank.

        All else that was asked is used.
        """
        self._carried, self._carried_by = list(own), [len(part) for part in positions]
        self.state = SamplerState(self._stream.position, tuple(sorted(at for part in positions for at in part)))

    def _taken(self, numbers: Sequence[int], first_number: int = 0) -> list[PromptSlot]:
        """The next problems of the stream, one for each number; this rank's part of them."""
        parts: list[list[tuple[int, int]]] = [[] for _ in range(self._ranks)]
        for position, number in enumerate(numbers, start=self._stream.position):
            parts[(number - first_number) % self._ranks].append((position, number))
        self._stream.position += len(numbers)
        problems = self._stream.deal([[position for position, _ in part] for part in parts], self._rank)
        return [PromptSlot(*asked, problem) for asked, problem in zip(parts[self._rank], problems, strict=True)]
