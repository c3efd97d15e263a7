"""The order in which problems are asked: every problem once an epoch, in an order that the seed fixes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from aspo_megatron.data.samples import Problem
from aspo_megatron.data.split_over_ranks import Dealer, dealer


class ProblemStream:
    """An endless stream; where it stands is a number, so that a run can be resumed.

    Where ranks share the problems, they ask for them together.
    """

    def __init__(self, problems: Sequence[Problem] | Dealer, seed: int) -> None:
        """`problems`: at least one."""
        self._problems = dealer(problems)
        self._seed = seed
        self._orders: dict[int, npt.NDArray[np.int32]] = {}
        self.position = 0

    def take(self, count: int) -> list[Problem]:
        """The next `count` problems."""
        start = self.position
        self.position += count
        return self._problems.to_all([self._place(position) for position in range(start, self.position)])

    def at(self, position: int) -> Problem:
        """The problem that is at a position of the stream."""
        (problem,) = self._problems.to_all([self._place(position)])
        return problem

    def deal(self, parts: Sequence[Sequence[int]], rank: int) -> list[Problem]:
        """The problems at the positions of this rank's part; there is one for each rank."""
        return self._problems.deal([[self._place(position) for position in part] for part in parts], rank)

    def _place(self, position: int) -> int:
        """Where among the problems the one is that is at a position of the stream."""
        epoch, index = divmod(position, len(self._problems))
        if epoch not in self._orders:
            if len(self._orders) == 2:  # a step may ask for the last of one epoch and the first of the next
                del self._orders[min(self._orders)]
            order = np.random.default_rng([self._seed, epoch]).permutation(len(self._problems))
            self._orders[epoch] = order.astype(np.int32)
        return int(self._orders[epoch][index])
