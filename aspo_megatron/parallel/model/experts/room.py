"""The rows that a rank sets aside for its experts, of which it does not know beforehand how many they will use."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from aspo_megatron.parallel.model.experts.rows import ROOM

_SPARE = 1.1
"""By how much more rows are set aside than were wanted, when they were too few."""


class ExpertRoom:
    """Rows set aside for a rank's experts, of all layers of a model, as a multiple of those of an even use.

    Nobody knows beforehand how many are needed. What was computed with too few is wrong; so each pass over
    micro-batches ends with `sufficed`, and is made again if it did not.
    """

    def __init__(self) -> None:
        self.factor = ROOM
        self._most: Tensor | None = None

    def note(self, wanted: Tensor, even: float) -> None:
        """A layer's experts have taken `wanted` rows (a scalar on the device) where an even share was `even`."""
        share = wanted / even
        self._most = share if self._most is None else torch.maximum(self._most, share)

    def sufficed(self, groups: Iterable[dist.ProcessGroup]) -> bool:
        """Whether no layer has wanted more since the last call, on any rank of the groups.

        A collective; the host waits for the device. If one has, there is room for it from now on.
        """
        assert self._most is not None  # every stage has layers
        most, self._most = self._most, None
        for group in groups:
            dist.all_reduce(most, op=dist.ReduceOp.MAX, group=group)
        wanted = float(most)
        enough = wanted <= self.factor
        if not enough:
            self.factor = _SPARE * wanted
        return enough
