"""One optimizer update. The only place that scales the loss.

The loss-scale contract. Before the first forward pass of an update its denominator is known: tokens, sequences or a
constant, summed over all data-parallel ranks and micro-batches (`losses/aggregation.py`). Each micro-batch then gives

    sum over its tokens of per_token * mask * weight,    weight = aggregation weight / denominator

and gradients are summed, never averaged. So they do not depend on how samples are packed or spread. What megatron
would scale by is switched off here:

- `calculate_per_token_loss=True` (parallel/model/spec.py), with a loss function that returns a token count, stops
  pipeline_parallel/schedules.py from multiplying the loss by cp and dividing it by the number of micro-batches, and
  DistributedDataParallel from averaging over data-parallel ranks (gradient_scaling_factor 1.0).
- finalize_model_grads would divide by that token count: it is called without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.distributed import finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.utils import get_attr_wrapped_model
from torch import Tensor

from aspo_megatron.config import LossConfig
from aspo_megatron.data.samples import Sample
from aspo_megatron.losses import Stat
from aspo_megatron.losses.aggregation import denominator_share, token_weight
from aspo_megatron.parallel.model.micro_batch import MicroBatch
from aspo_megatron.parallel.model.pipeline_stages import stage_messages
from aspo_megatron.parallel.model.policy import PolicyModel
from aspo_megatron.parallel.update.micro_batches import PlannedGroups, SampleGroup
from aspo_megatron.parallel.update.objective import Objective, gradient_at_tokens, weighted_sum
from aspo_megatron.parallel.update.optimizer import Optimizer
from aspo_megatron.parallel.update.passes import PassLimits, groups_of_replica
from aspo_megatron.parallel.update.selection import select_tokens
from aspo_megatron.parallel.update.statistics import StepStatistics

_LOSS = "loss"
"""The update's loss among its figures."""
_ROOM = "room_used"
"""What experts used of their room among them."""


@dataclass(frozen=True)
class UpdateResult:
    """Figures of one update, over all ranks. `skipped`: no token of it counted, so nothing was updated.

    `room_used`: what experts used of their room (`ExpertRoom.used`), where they have one.
    """

    loss: float
    grad_norm: float
    lr: float
    skipped: bool
    stats: dict[str, float]
    room_used: float | None = None


SKIPPED = UpdateResult(loss=0.0, grad_norm=0.0, lr=0.0, skipped=True, stats={})


def update(
    model: PolicyModel,
    optimizer: Optimizer,
    groups: Sequence[SampleGroup],
    objective: Objective,
    weighting: Callable[[Sample], tuple[float, float]],
    limits: PassLimits,
    router_aux_coef: float = 0.0,
) -> UpdateResult:
    """One optimizer update on this replica's `groups` (which may be none) and those of the other replicas.

    Args:
        model: the model inside `optimizer`.
        optimizer: holds gradients and Adam's state.
        groups: samples of this data-parallel replica.
        objective: loss at each token of a packed batch.
        weighting: of a sample: the weight of its tokens, and its share of the denominator (`aggregation_of`).
        limits: token budget, chunk and temperature.
        router_aux_coef: what the load-balancing loss of routers counts: the mean over micro-batches, weighted by their
            tokens, summed over layers.
    """
    planned = PlannedGroups.of(model, groups, limits.max_tokens)
    return planned_update(model, optimizer, planned, objective, weighting, limits, router_aux_coef)


def planned_update(
    model: PolicyModel,
    optimizer: Optimizer,
    planned: PlannedGroups,
    objective: Objective,
    weighting: Callable[[Sample], tuple[float, float]],
    limits: PassLimits,
    router_aux_coef: float = 0.0,
) -> UpdateResult:
    """As `update`, of samples that are planned already."""
    topology = model.topology
    shares = sum(weighting(sample)[1] for sample in planned.samples)
    totals = torch.tensor([shares, planned.tokens], dtype=torch.float64)  # on the CPU, as they are wanted there
    dist.all_reduce(totals, group=topology.dp.group)
    denominator, all_tokens = totals.tolist()
    if denominator == 0:
        return SKIPPED
    if objective.selects:
        select_tokens(model, planned, objective, limits, seed=optimizer.counters()["scheduled"])
    batches = planned.on_device(topology.platform.device, lambda sample: weighting(sample)[0] / denominator)
    model.config.moe_aux_loss_coeff = router_aux_coef / all_tokens
    figures = _gradients(model, optimizer, batches, objective, limits)
    while model.expert_room is not None and not model.expert_room.sufficed(figures[_ROOM]):
        figures = _gradients(model, optimizer, batches, objective, limits)
    grad_norm, lr = optimizer.step()
    loss, room_used = figures.pop(_LOSS), figures.pop(_ROOM, None)
    return UpdateResult(loss, grad_norm, lr, skipped=False, stats=figures, room_used=room_used)


def _gradients(
    model: PolicyModel,
    optimizer: Optimizer,
    batches: Sequence[MicroBatch],
    objective: Objective,
    limits: PassLimits,
) -> dict[str, float]:
    """Forward and backward of all micro-batches, from gradients of 0: what was measured, over all ranks."""
    topology = model.topology
    statistics = StepStatistics()
    optimizer.zero_grad()
    model.config.finalize_model_grads_func = _sum_gradients
    losses: list[Tensor] = get_forward_backward_func()(
        forward_step_func=partial(_forward_step, objective=objective, limits=limits, statistics=statistics),
        data_iterator=[iter(batches) for _ in optimizer.chunks],
        model=optimizer.chunks,
        num_microbatches=len(batches),
        seq_length=limits.max_tokens,
        micro_batch_size=1,
        forward_only=False,
        **stage_messages(topology, model.config, batches),
    )
    if model.expert_room is not None:
        used = model.expert_room.used(groups_of_replica(topology))
        statistics.add_peaks({_ROOM: Stat(used, torch.ones_like(used))})
    figures = [{_LOSS: 0.0, _ROOM: 0.0}]  # what the last stage sends takes its place
    if topology.is_last_stage:
        statistics.add_total(_LOSS, torch.stack(losses).sum())
        figures = [statistics.reduce(topology.dp.group)]
    if topology.pp.size > 1:
        dist.broadcast_object_list(figures, src=topology.stage_rank(topology.pp.size - 1), group=topology.pp.group)
    return figures[0]


def aggregation_of(config: LossConfig, max_response_tokens: int) -> Callable[[Sample], tuple[float, float]]:
    """The `weighting` of `update` for an aggregation of the configuration."""

    def weighting(sample: Sample) -> tuple[float, float]:
        tokens = int(sample.response_mask.sum())
        return (
            token_weight(config.aggregation, tokens),
            denominator_share(config.aggregation, tokens, max_response_tokens),
        )

    return weighting


def _forward_step(
    batches: Iterator[MicroBatch],
    model: torch.nn.Module,
    objective: Objective,
    limits: PassLimits,
    statistics: StepStatistics,
) -> tuple[Any, Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]]:
    """What megatron's schedule calls for a micro-batch: its loss, already scaled, and how to report it."""
    micro_batch = next(batches)
    batch = micro_batch.batch
    derivative = partial(gradient_at_tokens, objective) if objective.token_wise else None
    result = model(micro_batch, limits.temperature, limits.log_prob_chunk, derivative)

    def report(scaled: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        no_tokens = torch.zeros((), dtype=torch.int, device=scaled.device)
        return scaled, no_tokens, scaled.detach().clone()

    if not get_attr_wrapped_model(model, "is_last"):
        return result, report
    if objective.token_wise:
        anchor, values = result
        with torch.no_grad():
            output = objective(batch, *values)
        loss = weighted_sum(output, batch) + anchor
    else:
        output = objective(batch, *result)
        loss = weighted_sum(output, batch)
    statistics.add(output.stats)
    statistics.add_peaks(output.peaks)
    return loss, report


def _sum_gradients(model: list[Any], num_tokens: Tensor | None = None, **groups: Any) -> None:
    """Megatron's reduction of gradients, without its division by a number of tokens."""
    for chunk in model:
        if chunk.ddp_config.overlap_grad_reduce:
            _announce_rest(chunk)
    finalize_model_grads(model, None, **groups)


def _announce_rest(chunk: Any) -> None:
    """Tell megatron of gradients that no backward pass announced: the log-prob adds its weight's to the buffer itself.

    A bucket is summed over replicas when all of its parameters are announced.
    """
    for group in (*chunk.bucket_groups, *chunk.expert_parallel_bucket_groups):
        for parameter in group.params:
            if parameter not in group.per_param_grad_ready_counts:
                group.register_grad_ready(parameter)
