"""A split model's parameters as whole Hugging Face tensors, gathered bucket by bucket.

What goes the same way (over tp or etp, ep and pp) goes together: a rank's shards of a bucket are one flat tensor, with
one collective for each axis.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from aspo_megatron.models.family import Family
from aspo_megatron.models.mapping import ParameterRow, export_tensors
from aspo_megatron.parallel.grid.topology import Topology
from aspo_megatron.parallel.model.chunk import LocalParameter

BUCKET_BYTES = 256 << 20

Take = Callable[[Tensor], Tensor]

_all_gather_flat = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
"""The same collective: PyTorch 2.13 has given it another name."""


@dataclass(frozen=True)
class _Part:
    """A shard, as any rank may know it: `row` is its number in the family's table."""

    row: int
    layer: int
    expert: int
    shape: torch.Size
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return self.shape.numel() * self.dtype.itemsize


_Parts = list[_Part]


class Exporter:
    """Makes whole tensors of what the ranks of a tp, pp and ep group hold. All its methods are collectives of these."""

    def __init__(self, family: Family, topology: Topology, bucket_bytes: int) -> None:
        """`bucket_bytes`: of whole tensors that are gathered at a time; a larger tensor is a bucket of its own.

        At its peak a rank has the bucket, its own shards of it, and one tensor in its final form.
        """
        self._rows, self._shape = family.rows, family.shape(topology.tp.size)
        self._topology, self._limit = topology, bucket_bytes
        self._rooms: dict[str, Tensor] = {}

    def tensors(self, parameters: Iterable[LocalParameter], take: Take) -> Iterator[tuple[str, Tensor]]:
        """By name, whole on every rank, of what the pipeline stages hold in one virtual stage.

        Args:
            parameters: those of this rank there.
            take: what to export of each parameter, in its shape.
        """
        topology = self._topology
        numbers = {row: number for number, row in enumerate(self._rows)}
        mine = [entry for entry in parameters if not entry.row.copy]
        for stage in range(topology.pp.size):
            here = stage == topology.pp.rank
            shards = [take(entry.parameter) for entry in mine] if here else []
            parts = [
                _Part(numbers[entry.row], entry.layer, entry.expert, shard.shape, shard.dtype)
                for entry, shard in zip(mine if here else (), shards, strict=True)
            ]
            if topology.pp.size > 1:
                coming = [parts]
                dist.broadcast_object_list(coming, src=topology.stage_rank(stage), group=topology.pp.group)
                parts = coming[0]
            for bucket in self._buckets(parts):
                yield from self._whole([parts[i] for i in bucket], [shards[i] for i in bucket] if here else None, stage)

    def _buckets(self, parts: Sequence[_Part]) -> Iterator[list[int]]:
        """Numbers of parts that go the same way and fit in a bucket."""
        ways: dict[tuple[torch.dtype, bool, bool], list[int]] = {}
        for number, part in enumerate(parts):
            row = self._rows[part.row]
            ways.setdefault((part.dtype, row.per_expert, row.dim is not None), []).append(number)
        for numbers in ways.values():
            bucket: list[int] = []
            size = 0
            for number in numbers:
                nbytes = parts[number].nbytes * self._copies(self._rows[parts[number].row])
                if bucket and size + nbytes > self._limit:
                    yield bucket
                    bucket, size = [], 0
                bucket.append(number)
                size += nbytes
            yield bucket

    def _copies(self, row: ParameterRow) -> int:
        """How many shards of a part's size are gathered for it."""
        return self._split(row)[0] * (self._topology.ep.size if row.per_expert else 1)

    def _split(self, row: ParameterRow) -> tuple[int, dist.ProcessGroup]:
        ranks, _, group = split_over(row, self._topology)
        return ranks if row.dim is not None else 1, group

    def _whole(self, parts: _Parts, shards: list[Tensor] | None, stage: int) -> Iterator[tuple[str, Tensor]]:
        """The tensors of a bucket. `shards`: this rank's, if it is of the stage that has them."""
        topology = self._topology
        row = self._rows[parts[0].row]
        ranks, group = self._split(row)
        expert_ranks = topology.ep.size if row.per_expert else 1
        if shards is not None and topology.pp.size == ranks == expert_ranks == 1:
            for part, shard in zip(parts, shards, strict=True):
                yield from self._named(part, [[shard]])
            return
        flat = self._room("shards", sum(part.shape.numel() for part in parts), parts[0].dtype)
        if shards is not None:
            torch.cat([shard.reshape(-1) for shard in shards], out=flat)
        if topology.pp.size > 1:
            dist.broadcast(flat, src=topology.stage_rank(stage), group=topology.pp.group)
        every = self._all_gather("tp", flat[None], group, ranks)
        every = self._all_gather("ep", every, topology.ep.group, expert_ranks)
        start = 0
        for part in parts:
            stop = start + part.shape.numel()
            own = every[:, start:stop].unflatten(0, (expert_ranks, ranks)).unflatten(-1, part.shape)
            # What is not split would be a view of the bucket, and change with the next one.
            for name, tensor in self._named(part, own):
                yield name, tensor.clone() if row.dim is None else tensor
            start = stop

    def _all_gather(self, axis: str, tensor: Tensor, group: dist.ProcessGroup, ranks: int) -> Tensor:
        """[rows, n] of each rank to [ranks x rows, n]."""
        if ranks == 1:
            return tensor
        every = self._room(axis, ranks * tensor.numel(), tensor.dtype).view(-1, tensor.shape[1])
        _all_gather_flat(every, tensor, group=group)
        return every

    def _room(self, use: str, size: int, dtype: torch.dtype) -> Tensor:
        """Memory for one bucket after the other: a fresh one each time would cost a CPU more than the transfer."""
        device, nbytes = self._topology.platform.device, size * dtype.itemsize
        if nbytes > self._limit:
            return torch.empty(size, dtype=dtype, device=device)
        if use not in self._rooms or len(self._rooms[use]) < nbytes:
            self._rooms.pop(use, None)
            self._rooms[use] = torch.empty(nbytes, dtype=torch.uint8, device=device)
        return self._rooms[use][:nbytes].view(dtype)

    def _named(self, part: _Part, shards: Tensor | list[list[Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """The tensors of a part, from the shards of each ep rank's tp ranks."""
        row = self._rows[part.row]
        for expert, own in zip(self._experts(part), shards, strict=True):
            yield from zip(row.hf_names(part.layer, expert), export_tensors(row, list(own), self._shape), strict=True)

    def _experts(self, part: _Part) -> Sequence[int]:
        """The experts whose parameter the ranks of the ep group hold in this place, in the order of the ranks."""
        if not self._rows[part.row].per_expert:
            return (part.expert,)
        each = self._shape.num_experts // self._topology.ep.size
        return range(part.expert % each, self._shape.num_experts, each)


def split_over(row: ParameterRow, topology: Topology) -> tuple[int, int, dist.ProcessGroup]:
    """How many ranks share a parameter of `row`, this rank's number among them, and their group."""
    if row.per_expert:
        return topology.etp.size, topology.etp.rank, topology.etp.group
    return topology.tp.size, topology.tp.rank, topology.tp.group
