"""A replica's samples as micro-batches, in number and size as the layout asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist

from aspo_megatron.data.packing import pack, split_by_budget
from aspo_megatron.data.samples import Sample
from aspo_megatron.parallel.grid.topology import Topology
from aspo_megatron.parallel.log_prob.checks import check_targets
from aspo_megatron.parallel.model.micro_batch import MicroBatch, local_size
from aspo_megatron.parallel.model.policy import PolicyModel

SampleGroup = Sequence[Sample]
"""Samples that share a prompt."""


def micro_batches_of(groups: Sequence[SampleGroup], max_tokens: int, topology: Topology) -> list[list[SampleGroup]]:
    """This replica's micro-batches, with empty ones added so that every rank takes part in every collective.

    At least one; under virtual stages a multiple of pp, which megatron's schedule asks for; with experts spread over
    replicas as many as any other replica has.
    """
    micro_batches: list[list[SampleGroup]] = split_by_budget(groups, max_tokens)
    count = torch.tensor(max(len(micro_batches), 1))
    if topology.parallel.experts_span_replicas:
        dist.all_reduce(count, op=dist.ReduceOp.MAX, group=topology.dp.group)
    multiple = topology.pp.size if topology.vpp > 1 else 1
    wanted = -(-int(count) // multiple) * multiple
    return micro_batches + [[] for _ in range(wanted - len(micro_batches))]


def packed(
    model: PolicyModel, micro_batches: Sequence[Sequence[SampleGroup]], weight_of: Callable[[Sample], float]
) -> list[MicroBatch]:
    """Micro-batches on the model's device; the host does not wait for them to be there.

    `weight_of`: what each token of a sample counts. Replicas whose ranks gather each other's tokens have as many
    tokens in each.
    """
    batches = [pack(groups, [[weight_of(sample) for sample in group] for group in groups]) for groups in micro_batches]
    topology, kernels = model.topology, model.kernels
    sizes: list[int | None] = [None] * len(batches)
    if kernels.gathered_experts and topology.parallel.experts_span_replicas:
        largest = torch.tensor([local_size(batch, topology, kernels) for batch in batches])
        dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=topology.dp.group)
        sizes = largest.tolist()
    made = []
    for batch, size in zip(batches, sizes, strict=True):
        check_targets(batch.targets, model.shape.vocab_size)
        made.append(MicroBatch.of(batch, topology, kernels, size).to(topology.platform.device))
    return made
