"""Bytes of a rank while weights go to the engine, and while a state goes to the host."""

from __future__ import annotations

from aspo_megatron.config import ParallelConfig, RunConfig
from aspo_megatron.models.family import Family
from aspo_megatron.plan.memory.parameters import bytes_per_weight, largest_parameter, row_elements

_FP32 = 4


def sync_bytes(config: RunConfig, family: Family, parallel: ParallelConfig) -> int:
    """Of the leader, at the larger of two moments of an export (`parallel/model/export.py`).

    The largest tensor: as the shards that are gathered, as all of them, and in its final form; and the tensor before
    it, which is let go of when this one is there. Or a bucket that is filled while the one before is on its way.
    """
    shape, size = family.shape(parallel.tp), bytes_per_weight(config.model.dtype)
    largest = max(row_elements(row, shape) for row in family.rows) * size
    bucket = config.rollout.servers.bucket_mib << 20
    gathers = parallel.tp > 1
    flat = largest // parallel.tp if gathers or parallel.pp > 1 else 0
    before = 0 if family.tied_embeddings else largest  # the two tables follow each other
    tables = flat + (largest if gathers else 0) + largest + (before if parallel.pp == 1 else 0)
    rooms = (bucket // parallel.tp if gathers or parallel.pp > 1 else 0) + (bucket if gathers else 0)
    rooms += bucket if parallel.ep > 1 else 0
    filled = 0 if config.rollout.engine == "embedded" else 2 * bucket
    return max(tables, rooms + filled)


def save_bytes(family: Family, parallel: ParallelConfig, pp_rank: int) -> int:
    """Of a distributed optimizer, whose parts are put together in fp32, one tensor at a time; else nothing."""
    return _FP32 * largest_parameter(family, parallel, pp_rank) if parallel.distributed_optimizer else 0
