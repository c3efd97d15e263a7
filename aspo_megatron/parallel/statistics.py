"""Means over a step, exact over any number of micro-batches and ranks: two sums are kept, and divided at the end."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.distributed as dist

from aspo_megatron.losses.base import Stat


class StepStatistics:
    """Collects per-token quantities of one optimizer update or rollout."""

    def __init__(self) -> None:
        self._sums: dict[str, torch.Tensor] = {}
        self._peaks: dict[str, torch.Tensor] = {}

    def add(self, stats: Mapping[str, Stat]) -> None:
        """Add what a micro-batch measured."""
        for name, stat in stats.items():
            where = stat.where.to(torch.float64)
            # A quantity may be infinite where it does not count.
            total = torch.where(where != 0, stat.values.detach().to(torch.float64) * where, 0.0).sum()
            pair = torch.stack([total, where.sum()])
            self._sums[name] = self._sums[name] + pair if name in self._sums else pair

    def add_peaks(self, peaks: Mapping[str, Stat]) -> None:
        """Keep the largest value of each quantity where it counts."""
        for name, stat in peaks.items():
            floor = stat.values.new_full((1,), -math.inf, dtype=torch.float64)
            counted = stat.values.detach().to(torch.float64)[stat.where.bool()]
            peak = torch.cat([floor, counted]).max()
            self._peaks[name] = torch.maximum(self._peaks[name], peak) if name in self._peaks else peak

    def reduce(self, group: dist.ProcessGroup | None = None) -> dict[str, float]:
        """Means and peaks over all ranks of `group`, which must have added the same names. Empty ones are left out."""
        result: dict[str, float] = {}
        if self._sums:
            sums = torch.stack(list(self._sums.values()))
            dist.all_reduce(sums, group=group)
            result |= {
                name: float(total / weight)
                for name, (total, weight) in zip(self._sums, sums.tolist(), strict=True)
                if weight
            }
        if self._peaks:
            peaks = torch.stack(list(self._peaks.values()))
            dist.all_reduce(peaks, op=dist.ReduceOp.MAX, group=group)
            result |= {name: peak for name, peak in zip(self._peaks, peaks.tolist(), strict=True) if peak > -math.inf}
        return result
