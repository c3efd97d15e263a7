"""A replica's samples as micro-batches, in number and size as the layout asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

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


@dataclass(frozen=True)
class PlannedGroups:
    """A replica's samples as micro-batches, planned on the CPU once for all passes and epochs that go over them.

    `groups`: as they were given. `micro_batches`: the groups of each. `tokens`: that go through the model, of all.
    """

    groups: Sequence[SampleGroup]
    micro_batches: Sequence[Sequence[SampleGroup]]
    tokens: int
    _plans: Sequence[MicroBatch]

    @classmethod
    def of(cls, model: PolicyModel, groups: Sequence[SampleGroup], max_tokens: int) -> Self:
        """For a model, or another with the same layout. A collective over replicas where these share experts.

        Replicas whose ranks gather each other's tokens have as many tokens in each micro-batch.
        """
        topology, kernels = model.topology, model.kernels
        micro_batches = micro_batches_of(groups, max_tokens, topology)
        batches = [pack(part, [[0.0] * len(group) for group in part]) for part in micro_batches]
        sizes: list[int | None] = [None] * len(batches)
        if kernels.gathered_experts and topology.parallel.experts_span_replicas:
            largest = torch.tensor([local_size(batch, topology, kernels) for batch in batches])
            dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=topology.dp.group)
            sizes = largest.tolist()
        for batch in batches:
            check_targets(batch.targets, model.shape.vocab_size)
        plans = [MicroBatch.of(batch, topology, kernels, size) for batch, size in zip(batches, sizes, strict=True)]
        return cls(groups, micro_batches, sum(batch.num_tokens for batch in batches), plans)

    @property
    def samples(self) -> list[Sample]:
        """In the order of their log-probs."""
        return [sample for part in self.micro_batches for group in part for sample in group]

    def on_device(self, device: torch.device, weight_of: Callable[[Sample], float]) -> list[MicroBatch]:
        """All micro-batches with the samples' present values; the host does not wait for them to be there.

        `weight_of`: what each token of a sample counts.
        """
        made = []
        for groups, plan in zip(self.micro_batches, self._plans, strict=True):
            weights = [[weight_of(sample) for sample in group] for group in groups]
            made.append(plan.with_batch(plan.batch.with_values(groups, weights)).to(device))
        return made
