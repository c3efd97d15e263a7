"""Moving samples between ranks: from the rank that generated them to the replica that trains on them.

Ranks believe each other: what they send is unpickled, here as in PyTorch's own collectives of objects. Who can be
a rank is decided where they meet (`rendezvous.py`).
"""

from __future__ import annotations

import heapq
import pickle
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist

from aspo_megatron.data.packing import packed_length
from aspo_megatron.data.samples import Sample
from aspo_megatron.parallel.grid.topology import Topology

T = TypeVar("T")


def balance(sizes: Sequence[int], bins: int) -> list[int]:
    """A bin for each item, so that sums are about equal: the largest differencing method (Karmarkar and Karp, 1982).

    Each item begins as a partition of its own, all bins but one empty. The two partitions whose sums differ most are
    merged, large bins with small ones, until one is left.
    """
    partitions: list[tuple[int, int, list[tuple[int, list[int]]]]] = [
        (-size, index, [(size, [index]), *[(0, [])] * (bins - 1)]) for index, size in enumerate(sizes)
    ]
    heapq.heapify(partitions)
    for number in range(len(sizes), 2 * len(sizes) - 1):  # breaks ties, so that all ranks do the same
        (_, _, first), (_, _, second) = heapq.heappop(partitions), heapq.heappop(partitions)
        merged = [(a + b, [*own, *others]) for (a, own), (b, others) in zip(first, reversed(second), strict=True)]
        merged.sort(key=lambda part: -part[0])
        heapq.heappush(partitions, (merged[-1][0] - merged[0][0], number, merged))
    result = [0] * len(sizes)
    for _, _, parts in partitions:
        for place, (_, items) in enumerate(parts):
            for item in items:
                result[item] = place
    return result


def rank() -> int:
    """This rank's number; 0 in a process that is alone."""
    return dist.get_rank() if dist.is_initialized() else 0


def gather(value: T) -> list[T]:
    """The values of all ranks, in their order, on every rank. For small things."""
    if not dist.is_initialized():
        return [value]
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def from_leader(value: T) -> T:
    """The leader's value on every rank."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def from_leader_to_each(make: Callable[[], Sequence[Sequence[T]]]) -> list[T]:
    """What the leader has made for this rank: `make` gives something for each rank, and is called on the leader."""
    if not dist.is_initialized():
        (own,) = make()
        return list(own)
    return _all_to_all(make() if rank() == 0 else [()] * dist.get_world_size())


def to_replicas(
    groups: Sequence[Sequence[Sample]], groups_per_batch: int, topology: Topology, planned: int = 0
) -> list[list[list[Sample]]]:
    """Hand each group to the data-parallel replica that trains on it.

    Args:
        groups: generated on this rank; each bears its number in the rollout (`Sample.group`).
        groups_per_batch: the mini-batch of a group is its number // groups_per_batch. Each mini-batch is spread over
            the replicas by token count.
        topology: this rank's place.
        planned: how many mini-batches there are, if groups that were left out would have been in the last.

    Returns:
        This replica's groups of each mini-batch, in the order of their numbers, the same on all its ranks. A mini-batch
        of which nothing is left has none.
    """
    sizes = dict(pair for part in gather([(g[0].group, packed_length(g)) for g in groups]) for pair in part)
    replica_of: dict[int, int] = {}
    batches = range(max([planned, *(number // groups_per_batch + 1 for number in sizes)]))
    for batch in batches:
        members = sorted(number for number in sizes if number // groups_per_batch == batch)
        replica_of |= zip(members, balance([sizes[number] for number in members], topology.dp.size), strict=True)
    outgoing: list[list[Sequence[Sample]]] = [[] for _ in range(topology.world_size)]
    for group in groups:
        for rank in topology.ranks_of_replica(replica_of[group[0].group]):
            outgoing[rank].append(group)
    received = sorted(_all_to_all(outgoing), key=lambda group: group[0].group)
    return [[list(group) for group in received if group[0].group // groups_per_batch == batch] for batch in batches]


def _all_to_all(outgoing: Sequence[Sequence[T]]) -> list[T]:
    """Send `outgoing[rank]` to each rank; what all ranks sent to this one, by sender.

    In the machine's memory, where samples are made and read: a GPU has nothing to do with them.
    """
    parts = [torch.frombuffer(bytearray(pickle.dumps(list(items))), dtype=torch.uint8) for items in outgoing]
    sent = torch.tensor([part.numel() for part in parts])
    expected = torch.empty_like(sent)
    dist.all_to_all_single(expected, sent)
    received = torch.empty(int(expected.sum()), dtype=torch.uint8)
    dist.all_to_all_single(received, torch.cat(parts), expected.tolist(), sent.tolist())
    chunks = received.split(expected.tolist())
    return [item for chunk in chunks for item in pickle.loads(chunk.numpy().tobytes())]
