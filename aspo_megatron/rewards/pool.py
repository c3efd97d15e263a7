"""Scores responses in worker processes, so that a scorer that hangs or crashes costs one reward and not the run."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from pebble import ProcessExpired, ProcessPool

from aspo_megatron.config import RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import UserError
from aspo_megatron.rewards import scorers, worker
from aspo_megatron.rewards.mixture import Score

logger = logging.getLogger(__name__)

Item = tuple[Problem, str]
_Outcome = tuple[Score, str | None]
_MAX_FRUITLESS_STARTS = 3


@dataclass(frozen=True)
class Reward:
    """The worth of a response. With an `error` (one line: what kept it from being scored) the value is 0.

    `parts` are the values of a mixture's components that apply to the problem, not yet weighted, by name.
    """

    value: float
    error: str | None = None
    parts: Mapping[str, float] = field(default_factory=dict)


class PendingRewards:
    """Rewards that the workers are at; made by `RewardPool.submit`."""

    def __init__(self, pool: RewardPool, items: Sequence[Item]) -> None:
        self._pool = pool
        self._items = items
        self._rewards: list[Reward] | None = None
        self._tasks = pool._schedule(items)

    def result(self) -> list[Reward]:
        """Wait for the rewards, in the order of the items.

        Raises:
            UserError: the workers cannot be started.
            RuntimeError: the pool was closed before all were scored.
        """
        if self._rewards is None:
            self._rewards = self._pool._collect(self._items, self._tasks)
        return self._rewards


class RewardPool:
    """Worker processes that score responses, each with a time limit. `submit` may be called in any thread.

    The workers start at once, to load the scorer while the caller does other things, and end with `close`, with
    the context manager, or when this process dies. A response whose scorer takes too long, crashes or raises gets
    the value 0 and an error; its worker is replaced if need be, and no other response is affected.
    """

    def __init__(self, config: RewardConfig) -> None:
        """Check the configuration and start the workers.

        Raises:
            ConfigError: see `scorers.check`.
        """
        scorers.check(config)
        self._config = config
        self._config_text = config.model_dump_json()
        self._closed = False
        self._starting = threading.Lock()
        self._pool = self._start()

    def submit(self, items: Iterable[Item]) -> PendingRewards:
        """Have (problem, response) pairs scored without waiting for it."""
        return PendingRewards(self, list(items))

    def score(self, items: Iterable[Item]) -> list[Reward]:
        """Score (problem, response) pairs, and log how many could not be."""
        rewards = self.submit(items).result()
        log_errors(rewards)
        return rewards

    def close(self) -> None:
        """End the workers, whatever they are at. A second call does nothing."""
        self._closed = True
        self._stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _start(self) -> ProcessPool:
        pool = ProcessPool(
            self._config.workers,
            initializer=worker.start,
            initargs=(self._config_text,),
            context=worker.WorkerContext(),
        )
        if not pool.active:  # Asking is what starts the processes.
            raise UserError("the reward workers cannot be started")
        return pool

    def _stop(self) -> None:
        self._pool.stop()
        self._pool.join()

    def _schedule(self, items: Iterable[Item]) -> _Tasks:
        """Hand items to the workers; to new ones if these are gone."""
        with self._starting:
            if self._closed:
                raise RuntimeError("the reward pool is closed")
            if not self._pool.active:
                logger.warning("the reward workers ended unexpectedly; starting new ones")
                self._stop()
                self._pool = self._start()
            limit = self._config.timeout_seconds
            arguments = ((self._config_text, limit, problem, response) for problem, response in items)
            return _Tasks(self._pool, [self._pool.schedule(worker.score, args=a, timeout=limit) for a in arguments])

    def _collect(self, items: Sequence[Item], tasks: _Tasks) -> list[Reward]:
        """Wait for all items, and have those scored again that were lost when the workers ended unexpectedly.

        That is not a scorer's crash, which pebble tells from the worker's end, but that of an idle worker (say,
        for lack of memory) or of one that could not start.
        """
        rewards: dict[int, Reward] = {}
        waiting = list(range(len(items)))
        fruitless = 0
        while waiting:
            tasks.wait()
            before = len(rewards)
            for index, future in zip(waiting, tasks.futures, strict=True):
                reward = self._reward(future)
                if reward is not None:
                    rewards[index] = reward
            waiting = [index for index in waiting if index not in rewards]
            fruitless = 0 if len(rewards) > before else fruitless + 1
            if fruitless == _MAX_FRUITLESS_STARTS:
                raise UserError(
                    f"the reward workers (reward.kind={self._config.kind!r}) end as they start, {fruitless} times in a "
                    "row; their own error is above. Can the module be imported in a fresh process, is there memory?"
                )
            if waiting:
                tasks = self._schedule([items[index] for index in waiting])
        return [rewards[index] for index in range(len(items))]

    def _reward(self, future: Future[_Outcome]) -> Reward | None:
        """What became of a task; None if it was lost."""
        error = future.exception() if future.done() else BrokenProcessPool()
        if error is None:
            scored, problem = future.result()
            return Reward(scored.value, problem, scored.parts)
        if isinstance(error, BrokenProcessPool):
            return None
        if isinstance(error, ProcessExpired) and error.exitcode == -signal.SIGTERM:
            return None  # not the scorer's doing: Slurm may send the wish to stop to all processes of a rank
        if isinstance(error, ProcessExpired) and error.exitcode != -signal.SIGALRM:
            return Reward(0.0, f"the scorer {_describe_exit(error.exitcode)}")
        if isinstance(error, TimeoutError | ProcessExpired):
            return Reward(0.0, f"scoring took longer than reward.timeout_seconds={self._config.timeout_seconds:g}")
        return Reward(0.0, f"{type(error).__name__}: {error}")


@dataclass(frozen=True)
class _Tasks:
    """Tasks, and the pool that they were given to."""

    pool: ProcessPool
    futures: Sequence[Future[_Outcome]]

    def wait(self) -> None:
        """Until all are done, or the pool is gone (which leaves tasks undone that no worker had yet)."""
        while wait(self.futures, timeout=1.0).not_done and self.pool.active:
            pass


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended its process (exit code {code})"
    return f"crashed ({signal.Signals(-code).name})"


def log_errors(rewards: Sequence[Reward]) -> None:
    """One line on the responses that could not be scored, if there are any."""
    errors = [reward.error for reward in rewards if reward.error is not None]
    if errors:
        logger.warning(
            "%d of %d responses got reward 0 by an error; the first: %s", len(errors), len(rewards), errors[0]
        )
