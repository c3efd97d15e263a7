"""Memory of the host that ranks lock for the length of a run (docs/gpu.md, "Memory that comes and goes")."""

from __future__ import annotations

from dataclasses import dataclass

from aspo_megatron.config import ParallelConfig, RunConfig
from aspo_megatron.models.family import Family
from aspo_megatron.plan.hardware import GPUS_OF_NODE
from aspo_megatron.plan.memory.parameters import largest_parameter, rank_parameters
from aspo_megatron.plan.memory.rank import optimizer_shards
from aspo_megatron.plan.memory.setting import Setting


@dataclass(frozen=True)
class LockedMemory:
    """Bytes that a rank locks, before they are rounded up to whole blocks (`parallel/device/host_memory.py`).

    reference: its weights. optimizer: its state, offloaded. save: the rank's part of a state, while it is written.
    """

    reference: int
    optimizer: int
    save: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.reference + self.optimizer + self.save


def locked_by_rank(
    config: RunConfig, family: Family, parallel: ParallelConfig, setting: Setting, stage: int, *, replica: int = 0
) -> LockedMemory:
    """Of a rank of a pipeline stage. `replica`: which of those that hold the same weights, over dp and cp.

    The first replica writes the weights, and experts that no other rank has are written where they are. The optimizer's
    state goes with them, or if it is split, one parameter after the other, by all in turn, of whom one has the largest.
    """
    held = rank_parameters(family, parallel, stage)
    dense, expert = optimizer_shards(parallel)
    share = held.dense // dense + held.expert // expert
    table = family.shape(parallel.tp).padded_vocab_size // parallel.tp * family.hidden_size
    copy = table if family.tied_embeddings and 0 < stage == parallel.pp - 1 else 0  # which the first stage writes
    save = 0
    if config.checkpoint.every and config.checkpoint.async_save and not setting.cpu:
        state = setting.state_bytes
        alone = parallel.tp * parallel.cp * parallel.dp == parallel.ep * parallel.expert_tp
        own = (0 if replica else held.dense - copy) + (held.expert if alone or not replica else 0)
        if parallel.distributed_optimizer:
            largest = 0 if replica or copy else largest_parameter(family, parallel, stage)
            save = state * max(share - copy // dense, largest)
        else:
            save = state * own
        save += setting.bytes * own
    return LockedMemory(
        reference=setting.bytes * held.total if setting.reference_visits else 0,
        optimizer=setting.state_bytes * share if setting.state_visits else 0,
        save=save,
    )


def locked_on_node(
    config: RunConfig, family: Family, parallel: ParallelConfig, setting: Setting, ranks: int | None = None
) -> int:
    """Of all ranks of the first node: of the first `ranks`, or of as many as the node has GPUs."""
    ranks = ranks or min(parallel.world_size, config.slurm.gpus_per_node or GPUS_OF_NODE)
    per_stage = parallel.world_size // parallel.pp
    return sum(
        locked_by_rank(
            config, family, parallel, setting, rank // per_stage, replica=rank % per_stage // parallel.tp
        ).total
        for rank in range(ranks)
    )
