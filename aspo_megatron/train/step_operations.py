"""What a step computes, counted from its samples: tokens, and floating-point operations of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist

from aspo_megatron.config import RunConfig
from aspo_megatron.data.packing import packed_length
from aspo_megatron.data.samples import Sample
from aspo_megatron.models.counts import forward_operations
from aspo_megatron.models.family import Family
from aspo_megatron.parallel.grid.topology import Topology


@dataclass(frozen=True)
class Work:
    """Of one phase, over all ranks: tokens that go through the model, and floating-point operations."""

    tokens: int
    operations: float


def work_of(
    config: RunConfig, family: Family, groups: Sequence[Sequence[Sample]], scored: Sequence[Sequence[Sample]]
) -> dict[str, Work]:
    """What the phases of a step do with these samples (groups that share a prompt); recomputation does not count.

    Args:
        config: of the run.
        family: of the model.
        groups: all samples of the step.
        scored: those whose old log-probs a pass of their own computes.
    """
    whole = forward_work(family, groups)
    epochs = config.train.epochs
    found = {"generate": whole, "update": Work(whole.tokens * epochs, 3 * whole.operations * epochs)}
    if not config.takes_log_probs_of_engine:
        found["old log-probs"] = forward_work(family, scored)
    if config.has_reference:
        found["reference log-probs"] = whole
    return found


def forward_work(family: Family, groups: Sequence[Sequence[Sample]]) -> Work:
    """Of a forward pass over packed samples (groups that share a prompt)."""
    tokens = sum(packed_length(group) for group in groups)
    scored = sum(len(sample.response_ids) for group in groups for sample in group)
    pairs = 0
    for group in groups:
        prompt = len(group[0].prompt_ids)
        lengths = [len(sample.response_ids) for sample in group]
        pairs += prompt**2 + sum(length * (length + prompt) for length in lengths)
    return Work(scored, forward_operations(family, tokens, scored, pairs))


def whole_work(own: dict[str, Work], topology: Topology) -> dict[str, Work]:
    """The sum over replicas of each one's own work. A collective."""
    names = list(own)
    totals = torch.tensor(
        [[own[name].tokens, own[name].operations] for name in names],
        dtype=torch.float64,
        device=topology.platform.device,
    )
    dist.all_reduce(totals, group=topology.dp.group)
    return {
        name: Work(int(tokens), operations) for name, (tokens, operations) in zip(names, totals.tolist(), strict=True)
    }
