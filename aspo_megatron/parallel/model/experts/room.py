"""The rows that a rank sets aside for its experts, of which it does not know beforehand how many they will use."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

ROOM = 1.25
"""Rows set aside at first, as a multiple of those that experts take if they are used evenly."""
_MULTIPLE = 8
_SPARE = 1.1
"""By how much more rows are set aside than were wanted, when they were too few."""


def rows_set_aside(tokens: int, top_k: int, local: int, experts: int, factor: float = ROOM) -> int:
    """For `local` of all `experts`, of `tokens` with k choices each: `factor` times those of an even use.

    But no more than there can be.
    """
    wanted = int(factor * (tokens * top_k * local / experts))
    return min(-(-wanted // _MULTIPLE) * _MULTIPLE, tokens * min(top_k, local))


class ExpertRoom:
    """Rows set aside for a rank's experts, of all layers of a model, as a multiple of those of an even use.

    Nobody knows beforehand how many are needed. What was computed with too few is wrong: each pass over micro-batches
    ends with `used`, and is made again if they did not suffice.
    """

    def __init__(self) -> None:
        self.factor = ROOM
        self._used: Tensor | None = None

    def note(self, wanted: Tensor, rows: int) -> None:
        """A layer's experts wanted so many rows (a scalar on the device), and had `rows`."""
        used = wanted / rows
        self._used = used if self._used is None else torch.maximum(self._used, used)

    def used(self, groups: Iterable[dist.ProcessGroup]) -> Tensor:
        """The most that a layer has wanted since the last call, as a share of what it had, on any rank of the groups.

        A scalar on the device. A collective.
        """
        assert self._used is not None  # every stage has layers
        used, self._used = self._used, None
        for group in groups:
            dist.all_reduce(used, op=dist.ReduceOp.MAX, group=group)
        return used

    def sufficed(self, used: float) -> bool:
        """Whether that is not more than there was. If it is, there is more from now on."""
        if used > 1.0:
            self.factor *= _SPARE * used
        return used <= 1.0
