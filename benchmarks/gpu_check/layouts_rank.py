"""What a rank of `layouts.py` does: `python -m benchmarks.gpu_check.layouts_rank WAY ROW.json ROW.json ...`.

Rows of `aspo check`, one after the other, so that they share the seconds in which a process gets ready.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore

from aspo_megatron.check import main
from aspo_megatron.config import ParallelConfig
from aspo_megatron.parallel.device.platform import CpuPlatform, CudaPlatform, Platform, choose_platform
from aspo_megatron.parallel.grid.rendezvous import interfaces, store_of_this_machine
from aspo_megatron.parallel.grid.topology import Topology, build_grid, leave_grid
from benchmarks.gpu_check.layouts_backend import NAME, register

SHARED, OWN = "shared", "own"
"""The ways: all ranks on the first GPU, or each on its own. Without a GPU they differ in the collectives alone."""

_PATIENCE = timedelta(seconds=40)


class SharedGpu(CudaPlatform):
    """The first GPU, for every rank."""

    backend = NAME

    def __init__(self) -> None:
        super().__init__(0)


class SharedHost(CpuPlatform):
    """No GPU, and collectives as on a shared one."""

    backend = NAME


def run_rows(way: str, paths: Sequence[str]) -> None:
    """Compute the rows. When one is done there is a file beside its result: how many tensors went through the host."""
    ranks, rank = int(os.environ["WORLD_SIZE"]), int(os.environ["RANK"])
    copied = register() if way == SHARED else Counter[str]()
    store = store_of_this_machine(rank, ranks, _PATIENCE)
    for path in paths:
        row = main.CheckSpec(**json.loads(Path(path).read_text(encoding="utf-8")))
        copied.clear()
        if ranks == 1:
            main.check_layout(row)
        else:
            parallel = ParallelConfig.model_validate(row.parallel)
            with _grid(parallel, row.device, way, PrefixStore(row.result, store)) as topology:
                main.two_updates(row, topology)
        if rank == 0:
            Path(row.result).with_suffix(".done").write_text(json.dumps(copied), encoding="utf-8")


@contextmanager
def _grid(parallel: ParallelConfig, device: str, way: str, store: PrefixStore) -> Iterator[Topology]:
    """As `process_grid`, by a store of the row's own, and on a platform that depends on the way."""
    platform: Platform
    if way == SHARED:
        platform = SharedGpu() if device == "cuda" else SharedHost()
    else:
        platform = choose_platform(device, int(os.environ["LOCAL_RANK"]), 1)
    platform.install()
    rank, size = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE"))
    with interfaces(size, servers_elsewhere=False):
        dist.init_process_group(platform.backend, store=store, timeout=_PATIENCE, rank=rank, world_size=size)
        yield build_grid(parallel, platform, 1.0, seed=1)
    leave_grid(platform)


if __name__ == "__main__":
    run_rows(sys.argv[1], sys.argv[2:])
