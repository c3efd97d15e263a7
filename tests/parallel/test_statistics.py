"""Means and peaks over micro-batches and ranks, against those of all tokens at once."""

from __future__ import annotations

import math

import pytest
import torch

from aspo_megatron.config import ParallelConfig
from aspo_megatron.losses.base import Stat
from aspo_megatron.parallel.grid.topology import process_grid
from aspo_megatron.parallel.update.statistics import StepStatistics
from distributed import Ranks

from .layouts import PLATFORM

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(120)]

SIZES = [[5, 0, 300], [1], [0], [7, 2]]
"""Tokens of each micro-batch of each rank."""


def micro_batch(rank: int, index: int, tokens: int) -> tuple[dict[str, Stat], dict[str, Stat]]:
    generator = torch.Generator().manual_seed(100 * rank + index)
    values = 1000 + torch.randn(tokens, generator=generator)
    mask = torch.rand(tokens, generator=generator) < 0.5
    # Where nothing counts there may be anything.
    wild = torch.where(mask, values, torch.tensor([math.inf, -math.inf, math.nan])[torch.arange(tokens) % 3])
    stats = {
        "masked": Stat(wild, mask),
        "weighted": Stat(values, torch.rand(tokens, generator=generator)),
        "share": Stat((values > 1000).float(), mask),
        "never": Stat(values, torch.zeros(tokens, dtype=torch.bool)),
    }
    return stats, {"peak": Stat(wild, mask), "no peak": Stat(values, torch.zeros(tokens, dtype=torch.bool))}


def reduced(world_size: int) -> dict[str, float]:
    with process_grid(ParallelConfig(dp=world_size), PLATFORM, seed=1) as topology:
        statistics = StepStatistics()
        for index, tokens in enumerate(SIZES[topology.rank]):
            stats, peaks = micro_batch(topology.rank, index, tokens)
            statistics.add(stats)
            statistics.add_peaks(peaks)
        return statistics.reduce(topology.dp.group)


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_means_and_peaks(ranks: Ranks, world_size: int) -> None:
    parts = [micro_batch(r, i, n) for r in range(world_size) for i, n in enumerate(SIZES[r])]
    want = {}
    for name in ("masked", "weighted", "share"):
        values = torch.cat([stats[name].values for stats, _ in parts]).double()
        where = torch.cat([stats[name].where for stats, _ in parts]).double()
        want[name] = float((values[where > 0] * where[where > 0]).sum() / where.sum())
    want["peak"] = max(value for _, peaks in parts for value in peaks["peak"].values[peaks["peak"].where].tolist())
    for got in ranks.run(world_size, reduced, world_size):
        assert got.keys() == want.keys()  # what never counted is left out, it is no zero
        assert got == pytest.approx(want, rel=1e-12)


def empty() -> dict[str, float]:
    with process_grid(ParallelConfig(), PLATFORM, seed=1) as topology:
        return StepStatistics().reduce(topology.dp.group)


def test_nothing_added(ranks: Ranks) -> None:
    assert ranks.run(1, empty) == [{}]
