"""Parameters that each pipeline stage's ranks hold, counted from the family's table."""

from __future__ import annotations

from dataclasses import dataclass

from aspo_megatron.config import ParallelConfig
from aspo_megatron.models.family import Family
from aspo_megatron.models.mapping import ModelShape, ParameterRow

_EMBEDDING = "embedding.word_embeddings.weight"
_OUTPUT = "output_layer.weight"


@dataclass(frozen=True)
class Parameters:
    """Elements on one rank. `dense` lie on all of tp x cp x dp, `expert` are spread over ep and etp."""

    dense: int
    expert: int

    @property
    def total(self) -> int:
        """Elements."""
        return self.dense + self.expert


def bytes_per_weight(dtype: str) -> int:
    """Of an element of `model.dtype`."""
    return 4 if dtype == "float32" else 2


def stage_chunks(family: Family, parallel: ParallelConfig, pp_rank: int) -> tuple[int, ...]:
    """Layers of each virtual stage of a pipeline rank."""
    return family.stage_layers(parallel)[pp_rank :: parallel.pp]


def rank_parameters(family: Family, parallel: ParallelConfig, pp_rank: int) -> Parameters:
    """What a rank of stage `pp_rank` holds, padding of the vocabulary included."""
    shape = family.shape(parallel.tp)
    layers = sum(stage_chunks(family, parallel, pp_rank))
    dense = expert = 0
    for row in family.rows:
        if not _on_stage(row, parallel, pp_rank):
            continue
        size = row_elements(row, shape)
        if row.per_expert:
            expert += layers * shape.num_experts // parallel.ep * (size // parallel.expert_tp)
        else:
            own = size if row.dim is None else size // parallel.tp
            dense += layers * own if row.per_layer else own
    return Parameters(dense, expert)


def largest_parameter(family: Family, parallel: ParallelConfig, pp_rank: int) -> int:
    """Elements of the largest parameter that a rank holds whole, experts left out: these are small."""
    shape = family.shape(parallel.tp)
    return max(
        row_elements(row, shape) // (1 if row.dim is None else parallel.tp)
        for row in family.rows
        if not row.per_expert and _on_stage(row, parallel, pp_rank)
    )


def row_elements(row: ParameterRow, shape: ModelShape) -> int:
    """Elements of a whole Megatron parameter."""
    if row.megatron in (_EMBEDDING, _OUTPUT):
        return shape.padded_vocab_size * shape.hidden_size
    return row.elements(shape)


def _on_stage(row: ParameterRow, parallel: ParallelConfig, pp_rank: int) -> bool:
    if row.per_layer:
        return True
    first, last = pp_rank == 0, pp_rank == parallel.pp - 1
    if row.megatron == _EMBEDDING:
        return first
    return last and not (row.copy and first)  # with one stage, tied embeddings are one parameter
