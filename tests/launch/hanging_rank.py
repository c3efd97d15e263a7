"""What one rank of the tests of hangs does: `python -m hanging_rank FOLDER MINUTES BEHAVIOUR_OF_RANK_0 ...`.

All ranks pass a collective in the phase "step 1, generate"; then each does as told, most of them wait in the update.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from aspo_megatron.config import ParallelConfig, PlatformConfig
from aspo_megatron.launch.rank import rank_main
from aspo_megatron.parallel.grid.topology import Topology, process_grid

SECONDS = 4.0
"""How long the ranks wait in the update; to meet they may take longer."""


def endless_loop() -> None:
    while True:
        pass


def never_let_go() -> None:
    """A loop in C that holds the interpreter."""
    re.match(r"(a+)+$", "a" * 60 + "b")


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def stop_launcher() -> None:
    os.kill(os.getppid(), signal.SIGSTOP)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_something_else() -> None:
    dist.recv(torch.zeros(1), src=(dist.get_rank() + 1) % dist.get_world_size(), tag=7)


ALONE = {
    "loop": endless_loop,
    "hold": never_let_go,
    "stop": stop,
    "stop the launcher": stop_launcher,
    "die": die,
    "elsewhere": wait_for_something_else,
}


def late(group: dist.ProcessGroup) -> None:
    time.sleep(SECONDS + 1)
    dist.all_reduce(torch.zeros(1), group=group)


def until_written(topology: Topology) -> None:
    """Until the others can read where this rank is, or nobody can, as what holds the notes is stopped."""
    deadline = time.monotonic() + 5.0
    while not topology.rank_status.written and time.monotonic() < deadline:
        time.sleep(0.01)


def main() -> int:
    folder, minutes, behaviours = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3:]
    rank, size = int(os.environ["RANK"]), len(behaviours)
    (folder / f"{rank}.up").write_text(str(os.getpid()))
    while len(list(folder.glob("*.up"))) < size:  # imports take longer than the ranks are to wait
        time.sleep(0.01)
    behaviour = behaviours[rank]
    if behaviour == "start-up":
        endless_loop()
    platform = PlatformConfig(device="cpu", threads_per_rank=1, timeout_minutes=minutes)
    with process_grid(ParallelConfig(dp=size), platform, seed=1) as topology:
        patient = behaviour == "wait longer"
        group = dist.new_group(timeout=timedelta(seconds=3 * SECONDS if patient else SECONDS))
        topology.rank_status.phase("step 1, generate")
        dist.all_reduce(torch.zeros(1))
        what, _, where = behaviour.partition(" in ")
        until_written(topology)
        if where == "generate":
            ALONE[what]()
        topology.rank_status.phase("step 1, update")
        until_written(topology)
        if what == "late":
            late(group)
        if where == "update":
            ALONE[what]()
        if what == "abort":
            print("[PG ID 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)", file=sys.stderr)
            time.sleep(2)
            os.abort()
        dist.all_reduce(torch.zeros(1), group=group)
    return 0


if __name__ == "__main__":
    rank_main(main)
