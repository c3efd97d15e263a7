"""Passes without a gradient: log-probs and entropies of samples under a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.distributed as dist
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from aspo_megatron.config import TrainConfig
from aspo_megatron.data.samples import Sample
from aspo_megatron.parallel.grid.topology import Topology
from aspo_megatron.parallel.model.chunk import ModelChunk
from aspo_megatron.parallel.model.micro_batch import MicroBatch
from aspo_megatron.parallel.model.pipeline_stages import stage_messages
from aspo_megatron.parallel.model.policy import PolicyModel
from aspo_megatron.parallel.update.micro_batches import PlannedGroups, SampleGroup


@dataclass(frozen=True)
class PassLimits:
    """Bounds on the memory of a pass, and the sampling temperature whose log-probs it computes."""

    max_tokens: int
    log_prob_chunk: int | None
    temperature: float

    @classmethod
    def of(cls, train: TrainConfig, temperature: float) -> Self:
        """As the configuration bounds them."""
        return cls(train.max_tokens_per_micro_batch, train.log_prob_chunk, temperature)


def response_log_probs(
    model: PolicyModel, groups: Sequence[SampleGroup], limits: PassLimits
) -> Iterator[tuple[Sample, np.ndarray]]:
    """Log-probs of every response token under `model`: as `token_outputs`, without the entropies."""
    for sample, log_probs, _ in token_outputs(model, groups, limits):
        yield sample, log_probs


@torch.no_grad()
def token_outputs(
    model: PolicyModel, groups: Sequence[SampleGroup], limits: PassLimits
) -> Iterator[tuple[Sample, np.ndarray, np.ndarray]]:
    """Log-prob and entropy of every response token under `model`: each sample of `groups` with its own, fp32.

    A collective over the ranks of a replica, which pass the same groups; where replicas share experts, over all ranks.
    """
    yield from planned_outputs(model, [PlannedGroups.of(model, groups, limits.max_tokens)], limits)


@torch.no_grad()
def planned_outputs(
    model: PolicyModel, planned: Sequence[PlannedGroups], limits: PassLimits
) -> Iterator[tuple[Sample, np.ndarray, np.ndarray]]:
    """As `token_outputs`, of samples that are planned already."""
    device = model.topology.platform.device
    batches = [batch for part in planned for batch in part.on_device(device, lambda sample: 0.0)]
    results = _outputs(model, batches, limits)
    while not _had_room(model):
        results = _outputs(model, batches, limits)
    samples = [sample for part in planned for sample in part.samples]
    # All micro-batches at once: each would be a time at which the GPU has nothing to do.
    size = sum(len(sample.response_ids) for sample in samples)
    last = model.topology.is_last_stage
    both = torch.cat(results, dim=1) if last else torch.empty(2, size, device=device)
    log_probs, entropy = _from_last_stage(both, model.topology).cpu().numpy()
    start = 0
    for sample in samples:
        own = slice(start, start := start + len(sample.response_ids))
        yield sample, log_probs[own], entropy[own]


def _outputs(model: PolicyModel, batches: Sequence[MicroBatch], limits: PassLimits) -> list[Tensor]:
    """Of a pass over micro-batches: log-probs and entropies of each, [2, R]; on the last stage, of which it is."""

    def forward(batches: Iterator[MicroBatch], model: ModelChunk) -> tuple[Tensor, Callable[..., Tensor]]:
        output = model(next(batches), limits.temperature, limits.log_prob_chunk)
        both = torch.stack(output) if model.is_last else output
        return both, lambda result, non_loss_data: result

    results: list[Tensor] = get_forward_backward_func()(
        forward_step_func=forward,
        data_iterator=[iter(batches) for _ in model.chunks],
        model=list(model.chunks),
        num_microbatches=len(batches),
        seq_length=limits.max_tokens,
        micro_batch_size=1,
        forward_only=True,
        collect_non_loss_data=True,
        **stage_messages(model.topology, model.config, batches),
    )
    return results


def _had_room(model: PolicyModel) -> bool:
    """Whether experts had room for all of their tokens in the pass just made, on every rank of the replica.

    If not, what it gave is wrong, and the next pass has room. A collective, for which the host waits.
    """
    room = model.expert_room
    return room is None or room.sufficed(float(room.used(groups_of_replica(model.topology))))


def groups_of_replica(topology: Topology) -> list[dist.ProcessGroup]:
    """A maximum over each of them, one after the other, is that of all ranks of the replica."""
    return [axis.group for axis in (topology.tp, topology.cp, topology.pp) if axis.size > 1]


def _from_last_stage(values: Tensor, topology: Topology) -> Tensor:
    """The last pipeline stage's `values` on every stage."""
    if topology.pp.size > 1:
        dist.broadcast(values, src=topology.stage_rank(topology.pp.size - 1), group=topology.pp.group)
    return values
