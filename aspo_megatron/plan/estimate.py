"""Time of a step from operations, bytes and the stated rates."""

from __future__ import annotations

from dataclasses import dataclass

from aspo_megatron.config import ParallelConfig, RunConfig
from aspo_megatron.models.counts import forward_operations
from aspo_megatron.models.family import Family
from aspo_megatron.plan.generation import PlannedEngine, generation_seconds, mean_lengths
from aspo_megatron.plan.hardware import Assumptions, Gpu
from aspo_megatron.plan.memory.parameters import bytes_per_weight
from aspo_megatron.plan.traffic import Passes, Traffic, traffic_of


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step's parts, which follow one another. `idle`: waiting in the pipeline and for fuller replicas.

    `operations`: of one GPU, recomputation included.
    """

    generation: float
    scoring: float
    training: float
    idle: float
    traffic: tuple[Traffic, ...]
    traffic_seconds: float
    operations: float

    @property
    def trainer(self) -> float:
        """All but generation."""
        return self.scoring + self.training + self.idle + self.traffic_seconds

    @property
    def total(self) -> float:
        """A step."""
        return self.generation + self.trainer


def passes_of(config: RunConfig, parallel: ParallelConfig, assume: Assumptions) -> tuple[Passes, float]:
    """A step's passes on the busiest replica, and how much more it has than the mean."""
    prompt, response = mean_lengths(config, assume)
    rollout, train = config.rollout, config.train
    group = prompt + rollout.responses_per_prompt * (response - 1)
    busiest = -(-train.prompts_per_update // parallel.dp)
    groups = busiest * rollout.prompts_per_step // train.prompts_per_update
    updates = config.updates_per_step
    forward = config.share_scored + int(config.has_reference)
    micro_batches = max(busiest * group / train.max_tokens_per_micro_batch, 1.0)
    scored = groups * rollout.responses_per_prompt * response
    passes = Passes(groups * group, scored, forward, train.epochs, updates, micro_batches)
    return passes, busiest * parallel.dp / train.prompts_per_update


def step_time(
    config: RunConfig, family: Family, parallel: ParallelConfig, engine: PlannedEngine, gpu: Gpu, assume: Assumptions
) -> StepTime:
    """The parts of a step on `gpu`, under the assumptions."""
    size = bytes_per_weight(config.model.dtype)
    passes, uneven = passes_of(config, parallel, assume)
    ranks = parallel.tp * parallel.cp * parallel.pp
    forward = _forward_operations(config, family, passes, assume) / ranks
    again = {"none": 0.0, "selective": _recomputed_share(family), "full": 1.0}[config.model.recompute]
    scoring = forward * passes.forward
    training = forward * (3.0 + again) * passes.training
    rate = gpu.bf16 * assume.mfu if size == 2 else gpu.fp32 * assume.mfu
    bubble = (parallel.pp - 1) / (passes.micro_batches * parallel.vpp)
    scoring_seconds, training_seconds = scoring / rate, training / rate
    work = scoring_seconds + training_seconds
    traffic = traffic_of(config, family, parallel, passes)
    return StepTime(
        generation=generation_seconds(config, family, engine, gpu, assume, size),
        scoring=scoring_seconds / uneven,
        training=training_seconds / uneven,
        idle=work * (1 - 1 / uneven) + work * bubble,
        traffic=traffic,
        traffic_seconds=sum(each.seconds(gpu, assume.link) for each in traffic),
        operations=scoring + training,
    )


def _forward_operations(config: RunConfig, family: Family, passes: Passes, assume: Assumptions) -> float:
    """One pass over a replica's tokens: products with weights, and attention, whose blocks are computed whole."""
    prompt, response = mean_lengths(config, assume)
    count = config.rollout.responses_per_prompt
    groups = passes.scored / (count * response)
    pairs = groups * (prompt**2 + count * response * (response + prompt))
    return forward_operations(family, passes.tokens, passes.scored, pairs)


def _recomputed_share(family: Family) -> float:
    """Of a layer's forward pass that `selective` repeats: the feed-forward (attention's part grows with length)."""
    ffn = family.expert_ffn_size * family.experts_per_token if family.num_experts else family.ffn_hidden_size
    feed_forward = 3 * ffn * family.hidden_size
    attention = 2 * (family.num_heads + family.num_kv_heads) * family.head_dim * family.hidden_size
    return feed_forward / (feed_forward + attention)
