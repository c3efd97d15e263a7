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

    Nobody knows beforehand how many are needed. What was computed with too few is wrong: each pass over micro-batches
    ends with `used`, and is made again if it `lacked` any.
    """

    def __init__(self) -> None:
        self.factor = ROOM
        self._used: Tensor | None = None

    def note(self, wanted: Tensor, rows: int, even: float) -> None:
        """A layer's experts wanted so many rows (a scalar on the device), had `rows`, and an even share was `even`."""
        share = wanted / even
        used = torch.stack([share, torch.where(wanted > rows, share, 0.0)])
        self._used = used if self._used is None else torch.maximum(self._used, used)

    def used(self, groups: Iterable[dist.ProcessGroup]) -> Tensor:
        """The most that a layer wanted since the last call, as a multiple of an even share, on any rank of the groups.

        And the most that one wanted which had less; 0 if none did. [2], fp32, on the device. A collective.
        """
        assert self._used is not None  # every stage has layers
        used, self._used = self._used, None
        for group in groups:
            dist.all_reduce(used, op=dist.ReduceOp.MAX, group=group)
        return used

    def lacked(self, wanted: float) -> bool:
        """Whether a layer that had less has `wanted` so much; then there is room for it from now on."""
        if wanted > 0:
            self.factor = _SPARE * wanted
        return wanted > 0
