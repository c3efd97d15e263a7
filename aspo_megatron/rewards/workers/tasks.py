"""Responses that wait for their rewards, in the batches that they were handed over in."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from aspo_megatron.data.samples import Problem

Item = tuple[Problem, str]


@dataclass(frozen=True)
class Reward:
    """The worth of a response. With an `error` (one line: what kept it from being scored) the value is 0.

    `parts` are the values of a mixture's components that apply to the problem, not yet weighted, by name.
    """

    value: float
    error: str | None = None
    parts: Mapping[str, float] = field(default_factory=dict)


class Batch:
    """The rewards of responses that were handed over together. One thread gives them, any may wait for them."""

    def __init__(self, size: int) -> None:
        self._rewards = [Reward(0.0)] * size
        self._missing = size
        self._error: Exception | None = None
        self._ended = threading.Event()
        if size == 0:
            self._ended.set()

    def reward(self, index: int, reward: Reward) -> None:
        """Note what a response is worth."""
        self._rewards[index] = reward
        self._missing -= 1
        if self._missing == 0:
            self._ended.set()

    def fail(self, error: Exception) -> None:
        """Give up on those that have no reward yet, if there are any; `wait` raises the error."""
        if not self._ended.is_set():
            self._error = error
            self._ended.set()

    def wait(self) -> list[Reward]:
        """The rewards in the order of the responses, when all are there.

        Raises:
            Exception: what `fail` was given.
        """
        self._ended.wait()
        if self._error is not None:
            raise self._error
        return self._rewards


@dataclass
class Task:
    """One response of a batch. `losses` counts the workers that were lost while they scored it.

    `had_no_time` says that it ran out of time without having used any, which happens to a worker that is kept from
    running.
    """

    batch: Batch
    index: int
    item: Item
    losses: int = 0
    had_no_time: bool = False

    def end(self, reward: Reward) -> None:
        """Give the response its reward."""
        self.batch.reward(self.index, reward)


def tasks_of(batch: Batch, items: Sequence[Item]) -> list[Task]:
    """The tasks of a batch, in the order of its items."""
    return [Task(batch, index, item) for index, item in enumerate(items)]
