"""A plan: its figures, and these as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from aspo_megatron.config import RunConfig
from aspo_megatron.models.counts import active_elements, model_elements
from aspo_megatron.models.family import Family
from aspo_megatron.plan.estimate import StepTime, step_time
from aspo_megatron.plan.generation import PlannedEngine, planned_engine
from aspo_megatron.plan.hardware import GPUS, Assumptions, Gpu
from aspo_megatron.plan.layouts import Rated, StageMemory, best_layouts, stage_memory
from aspo_megatron.plan.memory.host import LockedMemory, locked_by_rank, locked_on_node
from aspo_megatron.plan.memory.setting import setting_of


@dataclass(frozen=True)
class OnGpu:
    """The configured layout on one kind of GPU. `servers_fit`: the weights of a server, with room for a cache."""

    gpu: Gpu
    stages: tuple[StageMemory, ...]
    engine: PlannedEngine
    time: StepTime

    @property
    def memory(self) -> int:
        """Of the fullest rank."""
        return max(stage.total for stage in self.stages)

    @property
    def fits(self) -> bool:
        """Whether trainer's ranks fit, and at colocation or beside it the engine."""
        return self.memory <= self.gpu.memory and self.servers_fit

    @property
    def servers_fit(self) -> bool:
        """Whether the engine has room for at least some keys and values."""
        return self.engine.cached_tokens > 0


@dataclass(frozen=True)
class Plan:
    """All that `aspo plan` shows.

    `locked`: of the host's memory, by a rank of each stage. `gpus`: how many the ranked layouts are for.
    """

    config: RunConfig
    family: Family
    on: tuple[OnGpu, ...]
    locked: tuple[LockedMemory, ...]
    locked_on_node: int
    gpus: int
    ranked_on: Gpu
    best: tuple[Rated, ...]
    assume: Assumptions

    def as_json(self) -> dict[str, Any]:
        """Figures in bytes, seconds and operations."""
        return {
            "model": {
                "family": self.family.name,
                "parameters": model_elements(self.family),
                "active_parameters": active_elements(self.family),
                "dtype": self.config.model.dtype,
            },
            "layout": self.config.parallel.model_dump(),
            "recompute": self.config.model.recompute,
            "on": [_on_json(each) for each in self.on],
            "host": {
                "locked": [{**asdict(each), "total": each.total} for each in self.locked],
                "locked_on_node": self.locked_on_node,
            },
            "best": {
                "gpus": self.gpus,
                "gpu": self.ranked_on.name,
                "layouts": [
                    {
                        "parallel": each.parallel.model_dump(),
                        "recompute": each.recompute,
                        "memory": each.memory,
                        "fits": each.fits,
                        "trainer_seconds": each.time.trainer,
                        "reasons": list(each.reasons),
                    }
                    for each in self.best
                ],
            },
            "assumptions": asdict(self.assume),
        }


def make_plan(
    config: RunConfig, family: Family, gpus: int | None = None, ranked_on: Gpu = GPUS[0], count: int = 5
) -> Plan:
    """The figures of a run, and the best layouts of `gpus` GPUs (those of the configuration's ranks if None).

    Raises:
        ConfigError: the model cannot be split as configured, or the loss is none.
    """
    assume = Assumptions()
    parallel = config.parallel
    family.check_layout(parallel)
    setting = setting_of(config, parallel)
    on = []
    for gpu in GPUS:
        engine = planned_engine(config, family, gpu, assume, setting.bytes)
        stages = tuple(
            stage_memory(config, family, parallel, stage, gpu, assume, setting) for stage in range(parallel.pp)
        )
        on.append(OnGpu(gpu, stages, engine, step_time(config, family, parallel, engine, gpu, assume)))
    gpus = gpus or parallel.world_size
    best = best_layouts(config, family, gpus, ranked_on, assume, count)
    locked = tuple(locked_by_rank(config, family, parallel, setting, stage) for stage in range(parallel.pp))
    on_node = locked_on_node(config, family, parallel, setting)
    return Plan(config, family, tuple(on), locked, on_node, gpus, ranked_on, tuple(best), assume)


def _on_json(on: OnGpu) -> dict[str, Any]:
    stages = []
    for stage in on.stages:
        moments = {**asdict(stage.passing), "peak": stage.passing.peak, "when": stage.passing.when}
        stages.append({**asdict(stage), "passing": moments, "total": stage.total})
    time = on.time
    return {
        "gpu": on.gpu.name,
        "memory": on.gpu.memory,
        "fits": on.fits,
        "total": on.memory,
        "stages": stages,
        "engine": asdict(on.engine),
        "seconds": {
            "generation": time.generation,
            "scoring": time.scoring,
            "training": time.training,
            "waiting": time.idle,
            "traffic": time.traffic_seconds,
            "step": time.total,
        },
        "traffic": [asdict(each) for each in time.traffic],
        "operations": time.operations,
    }
