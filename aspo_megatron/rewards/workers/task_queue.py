"""Responses that wait for a worker: new ones, and those that come back because theirs was lost."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from aspo_megatron.foreign_text import plain_logger
from aspo_megatron.rewards.workers.tasks import Reward, Task

logger = plain_logger(__name__)

_TRIES = 3

LATE = "scoring took longer than"
"""How the error of a response begins whose scorer took too long."""


class TaskQueue:
    """Those that come back go first, as nobody waits for the last ones longer than for them."""

    def __init__(self, timeout_seconds: float) -> None:
        self._late = f"{LATE} reward.timeout_seconds={timeout_seconds:g}"
        self._tasks: deque[Task] = deque()

    def __len__(self) -> int:
        return len(self._tasks)

    def add(self, tasks: Iterable[Task]) -> None:
        """Take new ones."""
        self._tasks += tasks

    def next(self) -> Task:
        """The one whose turn it is."""
        return self._tasks.popleft()

    def put_back(self, tasks: Iterable[Task]) -> None:
        """Have some given out again that no worker had begun with."""
        self._tasks.extendleft(reversed(list(tasks)))

    def fail(self, error: Exception) -> None:
        """Give up on all, and on what was handed over with them."""
        for task in self._tasks:
            task.batch.fail(error)
        self._tasks.clear()

    def finish(self, task: Task, reward: Reward, was_stopped: bool) -> None:
        """A worker has scored one. If it was stopped meanwhile, a time limit in the scorer may have run out of that."""
        if was_stopped and task.losses + 1 < _TRIES:
            self.lose(task, "a reward worker was stopped for a while")
        else:
            task.end(reward)

    def time_out(self, task: Task, was_stopped: bool, has_rested: bool) -> None:
        """One took too long; it is tried again if that may not be its own doing.

        Args:
            task: the response.
            was_stopped: its worker, or this process, may have been stopped meanwhile.
            has_rested: the worker has hardly run, as when it is kept from that, or the scorer waits for something.
        """
        if was_stopped:
            self.lose(task, "a process was stopped", self._late)
        elif has_rested and not task.had_no_time:
            task.had_no_time = True
            logger.warning("a reward worker hardly ran for its whole time limit; its response is scored once more")
            self._tasks.appendleft(task)
        else:
            task.end(Reward(0.0, self._late))

    def lose(self, task: Task, what: str, error: str | None = None) -> None:
        """A worker was lost while it scored one, which is scored again unless this was the last try.

        Args:
            task: the response.
            what: happened, a sentence.
            error: what to call it in the reward's error; None: the same.
        """
        task.losses += 1
        if task.losses >= _TRIES:
            task.end(Reward(0.0, f"{error or what} ({_TRIES} tries)"))
            return
        logger.warning(
            "%s while a response was scored; that is done again (try %d of %d)", what, task.losses + 1, _TRIES
        )
        self._tasks.appendleft(task)
