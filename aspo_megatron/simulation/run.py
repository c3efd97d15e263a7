"""A rank of a run on the stand-in: `simulate` is one step of it, in a process that has done nothing else."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aspo_megatron.config import ParallelConfig, RunConfig
from aspo_megatron.models.family import Family
from aspo_megatron.plan.hardware import Assumptions, Gpu
from aspo_megatron.plan.memory.setting import setting_of
from aspo_megatron.plan.memory.workload import worst_groups
from aspo_megatron.simulation.device.ledger import Figures
from aspo_megatron.simulation.rank import simulated_rank
from aspo_megatron.simulation.workload import samples_of


@dataclass(frozen=True)
class RankFigures:
    """What one rank did in a step, by phase. `locked`: bytes of the host's memory that it locks, by what for."""

    rank: int
    stage: int
    micro_batches: int
    phases: dict[str, Figures] = field(default_factory=dict)
    locked: dict[str, int] = field(default_factory=dict)

    @property
    def peak_bytes(self) -> int:
        """The largest of all phases."""
        return max(figures.peak_bytes for figures in self.phases.values())

    def as_json(self) -> dict[str, Any]:
        """All figures."""
        phases = {phase: figures.as_json() for phase, figures in self.phases.items()}
        return {**vars(self), "phases": phases, "peak_bytes": self.peak_bytes}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RankFigures:
        """Of what `as_json` gave."""
        return cls(
            rank=data["rank"],
            stage=data["stage"],
            micro_batches=data["micro_batches"],
            phases={phase: Figures.from_json(figures) for phase, figures in data["phases"].items()},
            locked=data["locked"],
        )


def micro_batches_of(config: RunConfig) -> int:
    """As many as fill the pipeline and drain it once, of those that an update has."""
    parallel = config.parallel
    enough = {1: 1}.get(parallel.pp, parallel.pp + 1) if parallel.vpp == 1 else 2 * parallel.pp
    return min(enough, setting_of(config, parallel).micro_batches)


def ranks_of(parallel: ParallelConfig) -> list[int]:
    """The first rank of each kind of pipeline stage: the first, one in the middle, the last."""
    per_stage = parallel.world_size // parallel.pp
    return [stage * per_stage for stage in sorted({0, parallel.pp // 2, parallel.pp - 1})]


def simulate(config: RunConfig, family: Family, rank: int, gpu: Gpu) -> RankFigures:
    """One step of a rank of the configured layout.

    Args:
        config: the run; `model.path` has a config.json.
        family: the model.
        rank: which of the ranks.
        gpu: what its memory is that of.
    """
    count = micro_batches_of(config)
    groups = worst_groups(config, family.context_length) * count
    samples = samples_of(groups, family.shape(tp=1).vocab_size)
    reserved = Assumptions().reserved
    with simulated_rank(
        config.parallel, rank, memory=gpu.memory, reserved=reserved, capability=gpu.capability
    ) as simulated:
        from aspo_megatron.simulation.step import SimulatedStep  # megatron-core is imported where there is a platform

        step = SimulatedStep(config, family, simulated)
        step.run(samples)
        stage = simulated.topology.pp.rank
    phases = {str(phase): figures for phase, figures in step.phases.figures.items()}
    return RankFigures(rank, stage, count, phases, step.locked)
