"""Samples go from the ranks that generated them to the replicas that train on them, whole and evenly."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.distributed as dist
from thorough import one_in, some_of

from aspo_megatron.config import ParallelConfig
from aspo_megatron.data.packing import packed_length
from aspo_megatron.data.samples import Sample
from aspo_megatron.errors import ConfigError
from aspo_megatron.parallel.device.platform import CpuPlatform, CudaPlatform
from aspo_megatron.parallel.grid.exchange import balance, from_leader, gather, to_replicas
from aspo_megatron.parallel.grid.topology import process_grid
from distributed import Ranks

from .layouts import FP32, PLATFORM
from .samples import make_group

GRIDS = {name: row.parallel for name, row in FP32.items() if row.recompute == "none"}

BATCH = 4


def makers(groups: int, world_size: int, kind: str) -> list[list[int]]:
    """The numbers of the groups that each rank generates."""
    if kind == "one rank has all":
        return [[] for _ in range(world_size - 1)] + [list(range(groups))]
    return [list(range(groups))[rank::world_size] for rank in range(world_size)]


def make(number: int) -> list[Sample]:
    generator = np.random.default_rng(number)
    group = make_group(number, int(generator.integers(1, 30)), generator.integers(1, 200, 3).tolist())
    for index, sample in enumerate(group):
        sample.reward = number + index / 10
        sample.old_log_probs = sample.rollout_log_probs + 1 if index else None
    return group


def exchange(layout: ParallelConfig, numbers: Sequence[Sequence[int]]) -> tuple[int, list[list[list[Sample]]]]:
    with process_grid(layout, PLATFORM, seed=1) as topology:
        own = [make(number) for number in numbers[topology.rank]]
        return topology.dp.rank, to_replicas(own, BATCH, topology)


def same(one: Sample, other: Sample) -> bool:
    pairs = ((getattr(one, field.name), getattr(other, field.name)) for field in dataclasses.fields(Sample))
    return all(type(a) is type(b) and np.array_equal(a, b) for a, b in pairs)


SHARES = [(17, "each its share"), (12, "one rank has all"), (1, "each its share")]
REPLICAS = ["single", "tp2", "dp2", "dp3-distopt", "dp2-tp2", "dp2-cp2-distopt", "dp2-pp2-distopt"]


@pytest.mark.distributed
@pytest.mark.timeout(120)
@pytest.mark.parametrize("layout", some_of(REPLICAS, ["single", "dp2", "dp2-tp2", "dp2-cp2-distopt"]))
@pytest.mark.parametrize(("groups", "kind"), some_of(SHARES, SHARES[:2]))
def test_to_replicas(ranks: Ranks, layout: str, groups: int, kind: str) -> None:
    config = GRIDS[layout]
    arrived = ranks.run(config.world_size, exchange, config, makers(groups, config.world_size, kind))
    replicas: dict[int, list[list[list[Sample]]]] = {}
    for dp_rank, batches in arrived:
        first = replicas.setdefault(dp_rank, batches)
        # The ranks of a replica have the same samples in the same order.
        assert numbers_of(batches) == numbers_of(first)
        for batch in batches:
            for group in batch:
                assert all(same(a, b) for a, b in zip(group, make(group[0].group), strict=True))
    assert sorted(replicas) == list(range(config.dp))

    for index in range(-(-groups // BATCH)):
        parts = [numbers_of(replica)[index] for replica in replicas.values()]
        assert all(part == sorted(part) for part in parts)
        wanted = list(range(index * BATCH, min((index + 1) * BATCH, groups)))
        assert sorted(number for part in parts for number in part) == wanted
        loads = [sum(packed_length(make(number)) for number in part) for part in parts]
        assert max(loads) - min(loads) <= max(packed_length(make(number)) for number in wanted)


def numbers_of(batches: list[list[list[Sample]]]) -> list[list[int]]:
    return [[group[0].group for group in batch] for batch in batches]


@pytest.mark.distributed
@pytest.mark.timeout(120)
def test_no_groups_at_all(ranks: Ranks) -> None:
    assert ranks.run(2, exchange, GRIDS["dp2"], [[], []]) == [(0, []), (1, [])]


def exchange_of_four(layout: ParallelConfig, numbers: Sequence[Sequence[int]]) -> list[list[int]]:
    with process_grid(layout, PLATFORM, seed=1) as topology:
        return numbers_of(to_replicas([make(number) for number in numbers[topology.rank]], BATCH, topology, planned=4))


@pytest.mark.distributed
@pytest.mark.timeout(120)
def test_a_mini_batch_of_which_nothing_is_left_keeps_its_place(ranks: Ranks) -> None:
    assert ranks.run(2, exchange_of_four, GRIDS["tp2"], [[1, 9], [8]]) == [[[1], [], [8, 9], []]] * 2
    assert ranks.run(2, exchange_of_four, GRIDS["dp2"], [[], []]) == [[[]] * 4] * 2


def beside_the_gpu(layout: ParallelConfig) -> tuple[list[int], str, str, list[int]]:
    """Messages and samples between ranks whose GPUs never answer, on the process groups that GPUs have."""
    with pytest.MonkeyPatch.context() as patch:
        # The fake backend takes collectives and moves nothing.
        patch.setattr(CpuPlatform, "backend", CudaPlatform.backend.replace("nccl", "fake"))
        patch.setattr(CpuPlatform, "device", torch.device("meta"))
        with process_grid(layout, PLATFORM, seed=1) as topology:
            told = [f"from {topology.rank}"]
            dist.broadcast_object_list(told, src=topology.stage_rank(0), group=topology.pp.group)
            replicas = to_replicas([make(topology.rank)], BATCH, topology)
            arrived = [number for batch in numbers_of(replicas) for number in batch]
            return gather(topology.rank), from_leader(f"from {topology.rank}"), told[0], arrived


@pytest.mark.distributed
@pytest.mark.timeout(120)
@pytest.mark.parametrize("layout", ["single", "pp2-tp2-sp"])
def test_messages_and_samples_do_not_go_by_way_of_the_gpu(ranks: Ranks, layout: str) -> None:
    config = GRIDS[layout]
    everyone = list(range(config.world_size))
    for number, found in enumerate(ranks.run(config.world_size, beside_the_gpu, config)):
        assert found == (everyone, "from 0", f"from {number % config.tp}", everyone)


AXES = ("tp", "cp", "pp", "dp")


@dataclasses.dataclass
class Place:
    """One rank's view of the grid. By axis: the world ranks of its group, and its own rank in it."""

    members: dict[str, list[int]]
    ranks: dict[str, int]
    replica: list[int]
    last_stage: int
    gathered: list[int]
    from_leader: int


def look_around(layout: ParallelConfig) -> Place:
    with process_grid(layout, PLATFORM, seed=1) as topology:
        groups = (topology.tp.group, topology.cp.group, topology.pp.group, topology.dp.group)
        ranks = (topology.tp.rank, topology.cp.rank, topology.pp.rank, topology.dp.rank)
        return Place(
            members={axis: dist.get_process_group_ranks(group) for axis, group in zip(AXES, groups, strict=True)},
            ranks=dict(zip(AXES, ranks, strict=True)),
            replica=topology.ranks_of_replica(topology.dp.rank),
            last_stage=topology.stage_rank(topology.pp.size - 1),
            gathered=gather(10 * topology.rank),
            from_leader=from_leader(topology.rank + 7),
        )


@pytest.mark.distributed
@pytest.mark.timeout(120)
@pytest.mark.parametrize("layout", one_in(6, GRIDS))
def test_coordinates_and_groups_agree(ranks: Ranks, layout: str) -> None:
    config = GRIDS[layout]
    places = ranks.run(config.world_size, look_around, config)
    for rank, place in enumerate(places):
        for axis in AXES:
            assert len(place.members[axis]) == getattr(config, axis)
            assert place.members[axis][place.ranks[axis]] == rank
        mates = [number for number, other in enumerate(places) if other.ranks["dp"] == place.ranks["dp"]]
        assert sorted(place.replica) == mates
        assert place.last_stage == place.members["pp"][-1]
        assert place.gathered == [10 * other for other in range(config.world_size)]
        assert place.from_leader == 7


def test_layout_that_does_not_fit_the_ranks() -> None:
    grid = process_grid(ParallelConfig(tp=3, dp=2), PLATFORM, seed=1)
    with pytest.raises(ConfigError, match=r"tp=3 x cp=1 x dp=2 x pp=1 needs 6 ranks, 1 were started"), grid:
        pass


@pytest.mark.parametrize("bins", [1, 2, 3, 8])
def test_balance(bins: int) -> None:
    for seed in range(20):
        sizes = np.random.default_rng(seed).integers(1, 1000, 11).tolist()
        where = balance(sizes, bins)
        assert len(where) == len(sizes)
        loads = [sum(size for size, bin in zip(sizes, where, strict=True) if bin == index) for index in range(bins)]
        assert sum(loads) == sum(sizes)
        assert max(loads) - min(loads) <= max(sizes)


def test_replicas_with_eight_groups_each_are_within_two_percent() -> None:
    for seed in range(20):
        sizes = np.random.default_rng(seed).lognormal(9.0, 0.5, 64).astype(int)
        loads = np.bincount(balance(sizes.tolist(), 8), weights=sizes)
        assert loads.max() <= 1.02 * loads.mean()


def test_balance_of_little() -> None:
    assert balance([], 3) == []
    assert sorted(balance([5, 5, 5], 3)) == [0, 1, 2]
    assert balance([9], 4) == [0]
