"""The process grid of one rank: its place on each axis of the mesh, and the groups of ranks along them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta

import torch.distributed as dist

from aspo_megatron.config import ParallelConfig, PlatformConfig
from aspo_megatron.errors import ConfigError
from aspo_megatron.launch.rank_status import RankStatus
from aspo_megatron.parallel.device.platform import Platform, choose_platform
from aspo_megatron.parallel.grid.rendezvous import interfaces, meet
from aspo_megatron.parallel.grid.watch import watched


@dataclass(frozen=True)
class Axis:
    """One axis of the mesh, as a rank sees it.

    Attributes:
        size: number of ranks along the axis.
        rank: this rank's number among them, from 0.
        group: the process group of these ranks.
    """

    size: int
    rank: int
    group: dist.ProcessGroup

    @classmethod
    def of(cls, group: dist.ProcessGroup) -> Axis:
        """The axis along which the ranks of `group` lie."""
        return cls(group.size(), group.rank(), group)


@dataclass(frozen=True)
class Topology:
    """This rank's place on the mesh. `rank` and `world_size` count all ranks.

    `ep` and `etp` split experts, over the ranks of the other axes. `vpp` is no axis: the number of virtual stages on
    each pipeline rank. `rank_status` is told what this rank does, so that others can say so if it hangs.
    """

    platform: Platform
    rank: int
    world_size: int
    tp: Axis
    cp: Axis
    pp: Axis
    vpp: int
    dp: Axis
    ep: Axis
    etp: Axis
    sequence_parallel: bool
    parallel: ParallelConfig
    rank_status: RankStatus = field(default_factory=RankStatus)

    @property
    def is_leader(self) -> bool:
        """True on the one rank that writes files and talks to the user."""
        return self.rank == 0

    def ranks_of_replica(self, dp_rank: int) -> list[int]:
        """World ranks that hold data-parallel replica `dp_rank`: megatron numbers tp fastest, then cp, dp, pp."""
        size = self.tp.size * self.cp.size
        stages = range(0, self.world_size, size * self.dp.size)
        return [stage + dp_rank * size + rank for stage in stages for rank in range(size)]

    @property
    def is_last_stage(self) -> bool:
        """True where the pipeline ends: this rank computes log-probs and the loss."""
        return self.pp.rank == self.pp.size - 1

    def stage_rank(self, stage: int) -> int:
        """World rank of pipeline stage `stage` among the stages that this rank belongs to."""
        return dist.get_global_rank(self.pp.group, stage)


@contextmanager
def process_grid(
    parallel: ParallelConfig, platform_config: PlatformConfig, seed: int, *, servers_elsewhere: bool = False
) -> Iterator[Topology]:
    """Join the process group that the launcher described, and build megatron's groups; leave both at the end.

    Without a launcher (no WORLD_SIZE) this is a grid of one rank.

    Args:
        parallel: the layout.
        platform_config: device, threads, and how long a collective may wait.
        seed: of megatron's random states.
        servers_elsewhere: servers on other machines will be sent weights.

    Raises:
        ConfigError: if the layout does not fit the number of ranks that were started.
        WaitedInVainError: a collective has timed out.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size != parallel.world_size:
        raise ConfigError(
            f"parallel: tp={parallel.tp} x cp={parallel.cp} x dp={parallel.dp} x pp={parallel.pp} needs "
            f"{parallel.world_size} ranks, {world_size} were started"
        )
    platform = choose_platform(
        platform_config.device, int(os.environ.get("LOCAL_RANK", "0")), platform_config.threads_per_rank
    )
    platform.install()
    minutes = platform_config.timeout_minutes
    with interfaces(world_size, servers_elsewhere), watched(world_size, minutes) as rank_status:
        meet(platform.backend, world_size, timedelta(minutes=minutes))
        rank_status.phase("building the groups of ranks")
        yield replace(build_grid(parallel, platform, minutes, seed), rank_status=rank_status)
    # Not after an error: leaving makes the other ranks fail too, before this one's error is shown.
    leave_grid(platform)


def build_grid(parallel: ParallelConfig, platform: Platform, timeout_minutes: float, seed: int) -> Topology:
    """Build megatron's groups among the ranks of the process group that this process has joined."""
    from megatron.core import parallel_state
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=parallel.tp,
        context_parallel_size=parallel.cp,
        pipeline_model_parallel_size=parallel.pp,
        virtual_pipeline_model_parallel_size=parallel.vpp if parallel.vpp > 1 else None,
        expert_model_parallel_size=parallel.ep,
        expert_tensor_parallel_size=parallel.expert_tp,
        distributed_timeout_minutes=timeout_minutes,
    )
    model_parallel_cuda_manual_seed(seed)
    return Topology(
        platform=platform,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        tp=Axis.of(parallel_state.get_tensor_model_parallel_group()),
        cp=Axis.of(parallel_state.get_context_parallel_group()),
        pp=Axis.of(parallel_state.get_pipeline_model_parallel_group()),
        vpp=parallel.vpp,
        dp=Axis.of(parallel_state.get_data_parallel_group()),
        ep=Axis.of(parallel_state.get_expert_model_parallel_group()),
        etp=Axis.of(parallel_state.get_expert_tensor_parallel_group()),
        sequence_parallel=parallel.sequence_parallel,
        parallel=parallel,
    )


def leave_grid(platform: Platform) -> None:
    """Undo `build_grid`, leave the process group, uninstall the platform."""
    from megatron.core import parallel_state

    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()
    platform.uninstall()
