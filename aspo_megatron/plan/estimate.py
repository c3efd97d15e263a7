"""Time of a step from operations, bytes and the stated rates."""

from __future__ import annotations

from dataclasses import dataclass

from aspo_megatron import losses
from aspo_megatron.config import ParallelConfig, RunConfig
from aspo_megatron.models.family import Family
from aspo_megatron.plan.compute import compute_of
from aspo_megatron.plan.generation import PlannedEngine, generation_seconds, mean_lengths
from aspo_megatron.plan.hardware import Assumptions, Gpu
from aspo_megatron.plan.memory.parameters import bytes_per_weight
from aspo_megatron.plan.traffic import Passes, Traffic, traffic_of


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step's parts, which follow one another.

    `idle`: waiting in the pipeline, for its slowest stage, and for fuller replicas.

    `starved`: of `scoring` and `training`, how long the GPU waits for the host's calls.
    `operations`: of one GPU, recomputation included.
    """

    generation: float
    scoring: float
    training: float
    idle: float
    starved: float
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
    chosen_from = train.epochs if losses.get(config.loss.name).selects else 0
    forward = config.share_scored + int(config.has_reference) + chosen_from
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
    found = compute_of(config, family, parallel, passes, _pairs(config, passes, assume), gpu, assume)
    bubble = (parallel.pp - 1) / (passes.micro_batches * parallel.vpp)
    traffic = traffic_of(config, family, parallel, passes, gpu)
    return StepTime(
        generation=generation_seconds(config, family, engine, gpu, assume, size),
        scoring=found.scoring / uneven,
        training=found.training / uneven,
        idle=found.work * (1 - 1 / uneven) + found.slowest - found.work + found.slowest * bubble,
        starved=found.work / uneven * found.starved,
        traffic=traffic,
        traffic_seconds=sum(each.seconds(gpu, assume.link) for each in traffic),
        operations=found.operations,
    )


def _pairs(config: RunConfig, passes: Passes, assume: Assumptions) -> float:
    """Tokens of a query and a key in one pass over a replica's samples; attention's blocks are computed whole."""
    prompt, response = mean_lengths(config, assume)
    count = config.rollout.responses_per_prompt
    groups = passes.scored / (count * response)
    return groups * (prompt**2 + count * response * (response + prompt))
