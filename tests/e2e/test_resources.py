"""A long run takes no more open files, threads and shared memory; its launcher and its workers no more memory."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import psutil
import pytest

from .command import ASPO, RunFolder, finish, start, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.distributed, pytest.mark.timeout(900)]

FROM, STEPS, EVERY = 200, 600, 10
SETTINGS = ["output_dir=run", "parallel.tp=2", "train.steps=100000", "eval.every=0", "eval.max_problems=2"]
SETTINGS += ["reward.workers=2", "checkpoint.every=0", "rollout.prompts_per_step=3", "rollout.responses_per_prompt=2"]


def private_bytes(process: psutil.Process) -> int:
    """Memory that nobody else has, and that was written."""
    for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return 1024 * int(line.split()[1])
    raise AssertionError("no Private_Dirty")


def roles(command: psutil.Process) -> dict[str, psutil.Process]:
    found = {"launcher": command}
    for child in command.children(recursive=True):
        words = child.cmdline()
        if "aspo_megatron.rank" in words:
            found[f"rank {child.environ()['RANK']}"] = child
        elif any("multiprocessing.spawn" in word for word in words):
            found[f"worker of rank {child.environ()['RANK']}"] = child
    return found


def test_nothing_grows_with_the_steps(tmp_path: Path, work: Path) -> None:
    command = start([*ASPO, "train", str(work / "small.yaml"), *SETTINGS], tmp_path)
    run = RunFolder(tmp_path / "run")
    processes: dict[str, psutil.Process] = {}
    memory: dict[str, list[int]] = {}
    counts: list[dict[str, tuple[int, int]]] = []
    shared: list[set[str]] = []
    steps = range(FROM, STEPS, EVERY)
    for step in steps:
        wait_until(lambda step=step: len(run.metrics()) > step or command.poll() is not None, f"step {step}", 300)
        assert command.poll() is None, finish(command)
        processes = processes or roles(psutil.Process(command.pid))
        for name, process in processes.items():
            memory.setdefault(name, []).append(private_bytes(process))
        counts.append({name: (process.num_fds(), process.num_threads()) for name, process in processes.items()})
        shared.append({path.name for path in Path("/dev/shm").iterdir()} if Path("/dev/shm").is_dir() else set())
    command.send_signal(signal.SIGTERM)
    assert finish(command).code == 0
    assert {"launcher", "rank 0", "rank 1", "worker of rank 0", "worker of rank 1"} == processes.keys()
    slopes = {name: float(np.polyfit(steps, values, 1)[0]) for name, values in memory.items()}
    assert max(slope for name, slope in slopes.items() if not name.startswith("rank ")) < 1024, slopes
    assert counts[-1] == counts[0]
    assert not shared[-1] - shared[0]
