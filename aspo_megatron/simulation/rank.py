"""One rank of a layout on the stand-in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aspo_megatron.config import ParallelConfig
from aspo_megatron.parallel.device.packages import Packages
from aspo_megatron.parallel.grid.topology import Topology, build_grid, leave_grid
from aspo_megatron.simulation.device.collectives import join
from aspo_megatron.simulation.device.devices import PinnedMemory
from aspo_megatron.simulation.device.ledger import Ledger
from aspo_megatron.simulation.device.operations import StandIn
from aspo_megatron.simulation.device.platform import HOPPER, MEMORY, StandInPlatform
from aspo_megatron.simulation.device.python_calls import PythonCalls

BARE = Packages(None, apex=False, other_apex=False, apex_gradient_kernels=False, triton=True)
"""A GPU's environment without Transformer Engine and Apex, which cannot be imported without a GPU.

Triton comes with PyTorch for a GPU, and operations that launch its kernels are looked at without them."""


@dataclass(frozen=True)
class SimulatedRank:
    """`topology`: where the rank stands. `ledger`: what happened on its device. `pinned`: the host's locked memory."""

    topology: Topology
    ledger: Ledger
    pinned: PinnedMemory


@contextmanager
def simulated_rank(
    parallel: ParallelConfig,
    rank: int = 0,
    packages: Packages = BARE,
    memory: int = MEMORY,
    reserved: int = 0,
    capability: tuple[int, int] = HOPPER,
) -> Iterator[SimulatedRank]:
    """Be one rank of a layout in the block. For a process of its own: PyTorch keeps the device and megatron its groups.

    Args:
        parallel: the layout.
        rank: which of its ranks.
        packages: what the environment of the GPU is to have.
        memory: bytes of the GPU.
        reserved: those of them that tensors cannot have.
        capability: compute capability of the GPU.
    """
    stand_in = StandIn()
    platform = StandInPlatform(stand_in, packages, memory, reserved, capability)
    platform.install()
    try:
        join(rank, parallel.world_size)
        with PythonCalls(stand_in), stand_in:
            yield SimulatedRank(build_grid(parallel, platform, 10.0, seed=1), stand_in.ledger, stand_in.pinned)
    finally:
        leave_grid(platform)
