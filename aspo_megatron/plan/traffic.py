"""Bytes that each GPU sends in a step, by axis of the layout."""

from __future__ import annotations

from dataclasses import dataclass

from aspo_megatron.config import ParallelConfig, RunConfig
from aspo_megatron.models.counts import model_elements
from aspo_megatron.models.family import Family
from aspo_megatron.parallel.device.expert_traits import gathers_experts
from aspo_megatron.plan.generation import server_count
from aspo_megatron.plan.hardware import GPUS_OF_NODE, Gpu
from aspo_megatron.plan.memory.parameters import bytes_per_weight, rank_parameters
from aspo_megatron.plan.memory.rank import optimizer_shards


@dataclass(frozen=True)
class Passes:
    """How often a step's tokens go through the model on one replica.

    tokens: packed tokens of the replica in one pass. scored: response tokens among them. forward: passes without
    gradient, of which one may be over a part of the samples. training: passes with one (the epochs). updates: optimizer
    updates. micro_batches: of an update.
    """

    tokens: float
    scored: float
    forward: float
    training: int
    updates: int
    micro_batches: float


@dataclass(frozen=True)
class Traffic:
    """Bytes of an axis that the busiest GPU sends in a step, and whether they stay within its node."""

    axis: str
    bytes: float
    within_node: bool

    def seconds(self, gpu: Gpu, link: float) -> float:
        """At `link`, a share of the link's rate; nothing else is done meanwhile."""
        return self.bytes / ((gpu.nvlink if self.within_node else gpu.network) * link)


def traffic_of(
    config: RunConfig, family: Family, parallel: ParallelConfig, passes: Passes, gpu: Gpu
) -> tuple[Traffic, ...]:
    """One entry for each axis above 1, and one for the weight sync."""
    size = bytes_per_weight(config.model.dtype)
    again = 1 if config.model.recompute == "full" else 0
    layers = max(family.stage_layers(parallel)) * parallel.vpp
    tokens = passes.tokens / parallel.cp
    through = passes.forward + passes.training * (1 + again)
    backward = passes.training
    inner, middle = parallel.tp, parallel.tp * parallel.cp
    found: list[Traffic] = []
    if parallel.tp > 1:
        reduced = 2 * _ring(parallel.tp) * tokens * family.hidden_size * size
        # Attention and feed-forward each, in both directions; under sequence parallelism backward gathers inputs anew.
        count = layers * (2 * through + 2 * backward + (backward if parallel.sequence_parallel else 0))
        found.append(Traffic("tp", reduced * count, inner <= GPUS_OF_NODE))
    if parallel.cp > 1:
        keys = 2 * max(family.num_kv_heads // parallel.tp, 1) * family.head_dim * size
        gathered = _ring(parallel.cp) * passes.tokens * keys
        found.append(Traffic("cp", gathered * layers * (through + backward), middle <= GPUS_OF_NODE))
    sharers = parallel.ep * parallel.expert_tp
    own = tokens * family.hidden_size * size / (parallel.tp if parallel.sequence_parallel else 1)
    if parallel.ep > 1 and gathers_experts(family, parallel, config.model.dtype, config.model.kernels, gpu.capability):
        # All tokens to all ranks, and the sums of outputs back; backward gathers the tokens anew.
        sent = (sharers - 1) * own * layers * (2 * through + 3 * backward)
        found.append(Traffic("ep", sent, sharers <= GPUS_OF_NODE))
    elif parallel.ep > 1:
        sent = family.experts_per_token * own * _ring(parallel.ep) * layers * 2 * (through + backward)
        found.append(Traffic("ep", sent, sharers <= GPUS_OF_NODE))
    if parallel.pp > 1:
        handed = tokens * family.hidden_size * size * parallel.vpp
        if parallel.sequence_parallel:
            handed /= parallel.tp
        found.append(
            Traffic("pp", handed * (passes.forward + 2 * passes.training), parallel.world_size <= GPUS_OF_NODE)
        )
    summed = _gradients(family, parallel, size)
    if summed:  # of experts that tp ranks have copies of, too
        found.append(Traffic("dp", summed * passes.updates, _replicas_within(parallel)))
    found.append(_sync(config, family, size))
    return tuple(found)


def _ring(ranks: int) -> float:
    """Share of the whole that a rank sends when all ranks gather it, or scatter a sum of it."""
    return (ranks - 1) / ranks


def _gradients(family: Family, parallel: ParallelConfig, size: int) -> float:
    """Gradients summed in fp32; a distributed optimizer scatters the sum and gathers the new weights."""
    held = rank_parameters(family, parallel, 0)
    dense, expert = parallel.dp * parallel.cp, 1
    if held.expert:
        expert = optimizer_shards(parallel.model_copy(update={"distributed_optimizer": True}))[1]
    each = (4 + size) if parallel.distributed_optimizer else 8
    return each * (_ring(dense) * held.dense + _ring(expert) * held.expert)


def _replicas_within(parallel: ParallelConfig) -> bool:
    return parallel.tp * parallel.cp * parallel.dp <= GPUS_OF_NODE


def _sync(config: RunConfig, family: Family, size: int) -> Traffic:
    """The leader's: whole weights to each server. The embedded engine copies within a GPU what tp, ep and pp gather."""
    weights = model_elements(family) * size
    if config.rollout.engine == "embedded":
        return Traffic("sync", 0.0 if config.parallel.world_size == 1 else weights, config.parallel.world_size <= 8)
    elsewhere = config.rollout.servers.addresses or config.slurm.server_nodes
    return Traffic("sync", float(weights * server_count(config)), not elsewhere)
