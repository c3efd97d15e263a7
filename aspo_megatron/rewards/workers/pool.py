"""Scores responses in worker processes, so that a scorer that hangs or crashes costs one reward and not the run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Self

from aspo_megatron.config import RewardConfig
from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import plain_logger
from aspo_megatron.rewards import scorers
from aspo_megatron.rewards.workers.dispatcher import Dispatcher
from aspo_megatron.rewards.workers.supervisor import no_room
from aspo_megatron.rewards.workers.tasks import Batch, Item, Reward

__all__ = ["Item", "PendingRewards", "Reward", "RewardPool", "log_errors"]

logger = plain_logger(__name__)


class PendingRewards:
    """Rewards that the workers are at; made by `RewardPool.submit`."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def result(self) -> list[Reward]:
        """Wait for the rewards, in the order of the items.

        Raises:
            UserError: the workers cannot be started.
            RuntimeError: the pool was closed before all were scored.
        """
        return self._batch.wait()


class RewardPool:
    """Worker processes that score responses, each with a time limit. `submit` may be called in any thread.

    The workers start at once, to load the scorer while the caller does other things, and end with `close`, with
    the context manager, or when this process dies. A response whose scorer takes too long, crashes or raises gets
    the value 0 and an error; its worker is replaced if need be, and no other response is affected. Nor is any by what
    happens to a worker from outside: see `dispatcher`.
    """

    def __init__(self, config: RewardConfig) -> None:
        """Check the configuration and start the workers.

        Raises:
            ConfigError: see `scorers.check`.
            UserError: the machine has no room for the workers.
        """
        scorers.check(config)
        try:
            self._pool = Dispatcher(config)
        except (OSError, RuntimeError) as error:  # RuntimeError: Python's, for a thread that cannot be started
            raise UserError(no_room(error)) from error

    def submit(self, items: Iterable[Item]) -> PendingRewards:
        """Have (problem, response) pairs scored without waiting for it.

        Raises:
            RuntimeError: the pool was closed.
        """
        return self._schedule(items)

    def score(self, items: Iterable[Item]) -> list[Reward]:
        """Score (problem, response) pairs, and log how many could not be."""
        rewards = self.submit(items).result()
        log_errors(rewards)
        return rewards

    def close(self) -> None:
        """End the workers, whatever they are at. A second call does nothing."""
        self._pool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _schedule(self, items: Iterable[Item]) -> PendingRewards:
        return PendingRewards(self._pool.submit(list(items)))


def log_errors(rewards: Sequence[Reward]) -> None:
    """One line on the responses that could not be scored, if there are any."""
    errors = [reward.error for reward in rewards if reward.error is not None]
    if errors:
        logger.warning(
            "%d of %d responses got reward 0 by an error; the first: %s", len(errors), len(rewards), errors[0]
        )
