"""A layout's memory and time, and all layouts of so many GPUs, best first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from aspo_megatron.config import ParallelConfig, RunConfig
from aspo_megatron.config.words import Recompute
from aspo_megatron.models.family import Family
from aspo_megatron.models.layouts import layouts
from aspo_megatron.plan.estimate import StepTime, step_time
from aspo_megatron.plan.generation import PlannedEngine, planned_engine
from aspo_megatron.plan.hardware import GPUS_OF_NODE, Assumptions, Gpu
from aspo_megatron.plan.memory.activations import Widths
from aspo_megatron.plan.memory.parameters import bytes_per_weight
from aspo_megatron.plan.memory.rank import Passing, Resident, gather_buffer, passing, resident
from aspo_megatron.plan.memory.setting import Setting, setting_of
from aspo_megatron.plan.memory.transfers import save_bytes, sync_bytes
from aspo_megatron.plan.memory.workload import worst_batch

_MOST = 16
_NEAR = 0.1
"""Times that differ by less are taken for the same."""


@dataclass(frozen=True)
class StageMemory:
    """A rank of pipeline stage `stage`. Bytes.

    Attributes:
        resident: always there.
        passing: an update's, at its most.
        generation: beside `resident`, but for what is given back, while responses are generated; of an embedded engine
            its weights too.
        sync: the same, while weights are gathered and sent.
        save: the same, while a state is copied to the host.
        reserved: context, communication, fragments.
    """

    stage: int
    resident: Resident
    passing: Passing
    generation: int
    sync: int
    save: int
    reserved: int

    @property
    def total(self) -> int:
        """At the worst moment."""
        beside = max(self.generation, self.sync, self.save) - self.passing.given_back
        moment = max(self.passing.peak, beside)
        return self.resident.total + moment + self.reserved


@dataclass(frozen=True)
class Rated:
    """A layout with its memory (of the fullest stage) and time, and what is to be said of it.

    `tight`: it fits, but leaves less than a tenth of the GPU's memory free (`Assumptions.spare`).
    """

    parallel: ParallelConfig
    recompute: Recompute
    memory: int
    fits: bool
    tight: bool
    time: StepTime
    reasons: tuple[str, ...]


def stage_memory(
    config: RunConfig,
    family: Family,
    parallel: ParallelConfig,
    stage: int,
    gpu: Gpu,
    assume: Assumptions,
    setting: Setting,
) -> StageMemory:
    """A rank of one stage of a layout, on `gpu`."""
    batch = worst_batch(config, family, parallel)
    setting = replace(setting, gpu_memory=gpu.memory, capability=gpu.capability)
    held = resident(family, parallel, setting, stage)
    most = passing(family, parallel, setting, batch, stage)
    engine = planned_engine(config, family, gpu, assume, setting.bytes)
    servers = config.rollout.servers
    generation = 0
    if engine.kind == "embedded":
        generation = engine.bytes
    elif servers.colocate:
        generation = int((servers.memory_fraction or assume.server_fraction) * gpu.memory)
    w = Widths.of(family, parallel, batch, setting)
    kept = 0 if setting.gradients_leave else gather_buffer(w, parallel)
    sync = sync_bytes(config, family, parallel) + (engine.weights if engine.kind == "embedded" else 0)
    return StageMemory(
        stage=stage,
        resident=held,
        passing=most,
        generation=generation + kept if generation else 0,
        sync=sync + kept,
        save=save_bytes(family, parallel, stage) + kept,
        reserved=0 if setting.cpu else assume.reserved + int(assume.fragments * most.peak),
    )


def rate(
    config: RunConfig, family: Family, parallel: ParallelConfig, engine: PlannedEngine, gpu: Gpu, assume: Assumptions
) -> Rated:
    """Memory and time of a layout with `config.model.recompute`."""
    setting = setting_of(config, parallel)
    stages = sorted({0, parallel.pp - 1, 1 % parallel.pp})
    memory = max(stage_memory(config, family, parallel, s, gpu, assume, setting).total for s in stages)
    time = step_time(config, family, parallel, engine, gpu, assume)
    recompute = config.model.recompute
    fits, tight = memory <= gpu.memory, assume.is_tight(memory, gpu)
    reasons = _reasons(config, parallel, recompute, memory, gpu, time, tight=tight)
    return Rated(parallel, recompute, memory, fits, tight, time, reasons)


def best_layouts(
    config: RunConfig, family: Family, gpus: int, gpu: Gpu, assume: Assumptions, count: int
) -> list[Rated]:
    """The `count` best layouts of `gpus` GPUs, see `in_order`; the smallest ones, if none fits.

    Of layouts that differ in recomputation alone that with the least of it is kept that leaves a tenth of the memory
    free. Tight ones come last; there is one of them, or as many as there is room for, where it is faster than all
    others.
    """
    roomy, tight, large = list[Rated](), list[Rated](), list[Rated]()
    for parallel in candidates(family, gpus):
        for recompute in get_args(Recompute):
            model = config.model.model_copy(update={"recompute": recompute})
            changed = config.model_copy(update={"model": model, "parallel": parallel})
            engine = planned_engine(changed, family, gpu, assume, bytes_per_weight(model.dtype))
            rated = rate(changed, family, parallel, engine, gpu, assume)
            (tight if rated.tight else roomy if rated.fits else large).append(rated)
            if rated.fits and not rated.tight:
                break
    if not roomy and not tight:
        return sorted(large, key=lambda each: each.memory)[:count]
    best = in_order(roomy, count)
    faster = [each for each in tight if not best or each.time.trainer < best[0].time.trainer]
    faster = in_order(faster, max(count - len(best), min(1, count - 1), 0 if best else count))
    return [*best[: count - len(faster)], *faster]


def in_order(rated: Sequence[Rated], count: int) -> list[Rated]:
    """The `count` fastest, best first. Of those within a tenth of the fastest that is left, the least pp x cp.

    The estimate is no closer than that, and a layout of fewer parts is the one that others have run.
    """
    left, found = sorted(rated, key=lambda each: (each.time.trainer, each.memory)), list[Rated]()
    while left and len(found) < count:
        near = [each for each in left if each.time.trainer <= (1 + _NEAR) * left[0].time.trainer]
        found.append(min(near, key=lambda each: each.parallel.pp * each.parallel.cp))
        left.remove(found[-1])
    return found


def candidates(family: Family, gpus: int) -> Iterator[ParallelConfig]:
    """The layouts of the model that are weighed: tp within a node, at most 16 stages and contexts, experts whole."""
    for parallel in layouts(family, gpus):
        whole = not family.num_experts or parallel.expert_tp == 1
        if whole and parallel.tp <= GPUS_OF_NODE and parallel.pp <= _MOST and parallel.cp <= _MOST:
            yield parallel


def _reasons(
    config: RunConfig,
    parallel: ParallelConfig,
    recompute: Recompute,
    memory: int,
    gpu: Gpu,
    time: StepTime,
    *,
    tight: bool,
) -> tuple[str, ...]:
    """What its time goes to beside computation, and how full the GPU is."""
    shares = {f"{each.axis} traffic": each.seconds(gpu, Assumptions().link) for each in time.traffic}
    shares["waiting"] = time.idle
    shares["calls"] = time.starved
    found = [
        f"{name} {seconds / time.trainer:.0%}"
        for name, seconds in sorted(shares.items(), key=lambda item: -item[1])
        if seconds > 0.02 * time.trainer
    ][:2]
    if recompute != "none":
        found.append(f"needs recompute={recompute}")
    if parallel.dp > config.train.prompts_per_update:
        found.append(f"{parallel.dp - config.train.prompts_per_update} replicas without prompts")
    spare = (gpu.memory - memory) / 10**9
    told = f"{spare:.0f} GB spare" if spare >= 0 else f"{-spare:.0f} GB too large"
    found.append(f"tight: {told}" if tight else told)
    return tuple(found)
