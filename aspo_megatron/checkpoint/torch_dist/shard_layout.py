"""Which tensors each rank of a layout writes when one process writes the files of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from aspo_megatron.config import ParallelConfig
from aspo_megatron.models.family import Family
from aspo_megatron.models.mapping import ParameterRow, each_parameter, exported


@dataclass(frozen=True)
class Place:
    """What a rank of the layout writes: the shard `rank` of `ranks` of a row's parameter."""

    row: ParameterRow
    layer: int
    expert: int
    ranks: int
    rank: int


def places_by_rank(family: Family, parallel: ParallelConfig) -> Iterator[tuple[int, list[Place]]]:
    """What each rank of the layout writes, ranks counted as megatron does: tp fastest, then dp, then pp."""
    tp, ep, etp = parallel.tp, parallel.ep, parallel.expert_tp
    each_stage = tp * parallel.dp
    stages = family.stage_layers(parallel)
    first_layer = [sum(stages[:number]) for number in range(len(stages))]
    experts_each = family.num_experts // ep
    for pp_rank in range(parallel.pp):
        own = range(pp_rank, len(stages), parallel.pp)
        layers = [first_layer[stage] + layer for stage in own for layer in range(stages[stage])]
        for number in range(each_stage):
            places = []
            first = number // etp * experts_each
            experts = range(first, first + experts_each if number < ep * etp else first)
            for row, layer, expert in each_parameter(exported(family.rows), layers, experts):
                ranks, rank = (etp, number % etp) if row.per_expert else (tp, number)
                if rank >= ranks or (row.dim is None and rank):
                    continue  # another rank has the same, and writes it
                if row.per_layer or pp_rank == (0 if row.megatron.startswith("embedding") else parallel.pp - 1):
                    places.append(Place(row, layer, expert, ranks, rank))
            yield pp_rank * each_stage + number, sorted(places, key=lambda place: place.layer)
