"""A plan: its figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aspo_megatron.config import RunConfig
from aspo_megatron.models.family import Family
from aspo_megatron.plan.estimate import StepTime, step_time
from aspo_megatron.plan.generation import PlannedEngine, planned_engine
from aspo_megatron.plan.hardware import GPUS_OF_NODE, H100, SHOWN, Assumptions, Gpu
from aspo_megatron.plan.layouts import Rated, StageMemory, best_layouts, stage_memory
from aspo_megatron.plan.memory.host import LockedMemory, locked_by_rank, locked_on_node
from aspo_megatron.plan.memory.setting import setting_of
from aspo_megatron.plan.memory.workload import refuse_beyond_context
from aspo_megatron.slurm.layout import gpus_beside


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
class ModelSource:
    """Where the model's sizes are from. `missing`: the `model.path` that is not there, in whose place it was read."""

    config_json: Path
    missing: Path | None = None


@dataclass(frozen=True)
class AllGpus:
    """GPUs of the whole run. `shared`: servers take turns with the ranks, on theirs."""

    ranks: int
    servers: int
    shared: bool
    nodes: int
    gpus_of_node: int

    @property
    def total(self) -> int:
        """Of ranks and servers."""
        return max(self.ranks, self.servers) if self.shared else self.ranks + self.servers

    @classmethod
    def of(cls, config: RunConfig, engine: PlannedEngine) -> AllGpus:
        """Those of a run that generates with `engine`."""
        ranks, of_node = config.parallel.world_size, config.slurm.gpus_per_node or GPUS_OF_NODE
        if engine.kind == "embedded":
            return cls(ranks, 0, False, -(-ranks // of_node), of_node)
        servers, shared = engine.count * engine.gpus, config.rollout.servers.colocate
        here = ranks + gpus_beside(config)
        elsewhere = 0 if shared else servers - gpus_beside(config)
        nodes = config.slurm.server_nodes or -(-elsewhere // of_node)
        return cls(ranks, servers, shared, -(-here // of_node) + nodes, of_node)


@dataclass(frozen=True)
class Plan:
    """All that `aspo plan` shows.

    `locked`: of the host's memory, by a rank of each stage. `gpus`: how many the ranked layouts are for.
    """

    config: RunConfig
    family: Family
    source: ModelSource
    all_gpus: AllGpus
    on: tuple[OnGpu, ...]
    locked: tuple[LockedMemory, ...]
    locked_on_node: int
    gpus: int
    ranked_on: Gpu
    best: tuple[Rated, ...]
    assume: Assumptions


def make_plan(
    config: RunConfig,
    family: Family,
    gpus: int | None = None,
    gpu: Gpu | None = None,
    count: int = 5,
    source: ModelSource | None = None,
) -> Plan:
    """The figures of a run, and its best layouts.

    Args:
        config: the run.
        family: its model.
        gpus: rank layouts of so many; None: of as many as the configuration has ranks.
        gpu: all figures are for it; None: they are for an H100 and an H200, and layouts are ranked for the first.
        count: how many layouts.
        source: where the model's sizes are from; None: its `model.path`.

    Raises:
        ConfigError: the model cannot be split as configured, its context is too short, or the loss is none.
    """
    assume = Assumptions()
    parallel = config.parallel
    family.check_layout(parallel)
    refuse_beyond_context(config, family)
    setting = setting_of(config, parallel)
    on = []
    for each in SHOWN if gpu is None else (gpu,):
        engine = planned_engine(config, family, each, assume, setting.bytes)
        stages = tuple(
            stage_memory(config, family, parallel, stage, each, assume, setting) for stage in range(parallel.pp)
        )
        on.append(OnGpu(each, stages, engine, step_time(config, family, parallel, engine, each, assume)))
    ranked_on = gpu or H100
    gpus = gpus or parallel.world_size
    best = best_layouts(config, family, gpus, ranked_on, assume, count)
    locked = tuple(locked_by_rank(config, family, parallel, setting, stage) for stage in range(parallel.pp))
    on_node = locked_on_node(config, family, parallel, setting)
    return Plan(
        config=config,
        family=family,
        source=source or ModelSource(config.model.path / "config.json"),
        all_gpus=AllGpus.of(config, on[0].engine),
        on=tuple(on),
        locked=locked,
        locked_on_node=on_node,
        gpus=gpus,
        ranked_on=ranked_on,
        best=tuple(best),
        assume=assume,
    )
