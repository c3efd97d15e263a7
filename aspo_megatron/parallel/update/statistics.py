"""Means over a step, exact over any number of micro-batches and ranks: two sums are kept, and divided at the end.

Quantities may be on a GPU. They stay there, and the host waits for it once, at the end.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from aspo_megatron.losses.base import Stat


class StepStatistics:
    """Collects per-token quantities of one optimizer update or rollout."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        """Of all quantities in the order in which they came, which is the same on all ranks."""
        self._pairs: dict[tuple[str, ...], Tensor] = {}
        """Of quantities that were added together: sums of value times weight, and of weights, [quantities, 2]."""
        self._peaks: dict[str, Tensor] = {}
        self._totals: dict[str, Tensor] = {}

    def add(self, stats: Mapping[str, Stat]) -> None:
        """Add what a micro-batch measured."""
        self._names |= dict.fromkeys(stats)
        alike: defaultdict[tuple[torch.Size, torch.device], list[str]] = defaultdict(list)
        for name, stat in stats.items():
            alike[stat.values.shape, stat.values.device].append(name)
        for names in alike.values():  # a few operations for all, as each would take as long
            values = torch.stack([stats[name].values.detach().flatten().to(torch.float64) for name in names])
            where = torch.stack([stats[name].where.detach().flatten().to(torch.float64) for name in names])
            # A quantity may be infinite where it does not count.
            totals = torch.where(where != 0, values * where, 0.0).sum(dim=1)
            pairs = torch.stack([totals, where.sum(dim=1)], dim=1)
            key = tuple(names)
            self._pairs[key] = self._pairs[key] + pairs if key in self._pairs else pairs

    def add_peaks(self, peaks: Mapping[str, Stat]) -> None:
        """Keep the largest value of each quantity where it counts."""
        for name, stat in peaks.items():
            floor = stat.values.new_full((1,), -math.inf, dtype=torch.float64)
            counted = torch.where(stat.where.bool(), stat.values.detach().to(torch.float64), -math.inf)
            peak = torch.cat([floor, counted.flatten()]).amax()
            self._peaks[name] = torch.maximum(self._peaks[name], peak) if name in self._peaks else peak

    def add_total(self, name: str, value: Tensor) -> None:
        """Add a scalar to a quantity whose sum, not mean, is asked for."""
        value = value.detach().to(torch.float64)
        self._totals[name] = self._totals[name] + value if name in self._totals else value

    def reduce(self, group: dist.ProcessGroup | None = None) -> dict[str, float]:
        """Means, peaks and totals over all ranks of `group`, which must have added the same names.

        Means and peaks of what never counted are left out.
        """
        sums, peaks = self._sums(), list(self._peaks.values())
        parts = []
        for values, operation in ((sums, dist.ReduceOp.SUM), (peaks, dist.ReduceOp.MAX)):
            if values:
                parts.append(torch.stack(values))
                dist.all_reduce(parts[-1], op=operation, group=group)
        numbers = iter(torch.cat(parts).cpu().tolist() if parts else [])
        pairs = [(name, next(numbers), next(numbers)) for name in self._names]
        result = {name: total / weight for name, total, weight in pairs if weight}
        result |= {name: next(numbers) for name in self._totals}
        return result | {name: peak for name in self._peaks if (peak := next(numbers)) > -math.inf}

    def _sums(self) -> list[Tensor]:
        """Sum and weight of each quantity, one after the other, and then the totals: scalars."""
        found: dict[str, Tensor] = {}
        for names, pairs in self._pairs.items():
            for name, pair in zip(names, pairs.unbind(0), strict=True):
                found[name] = found[name] + pair if name in found else pair
        return [number for name in self._names for number in found[name].unbind(0)] + list(self._totals.values())
