"""A long run takes no more open files, threads, shared memory and memory."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import psutil
import pytest

from aspo_megatron.config.io import load_config, save_config

from .command import ASPO, RunFolder, finish, start, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.distributed, pytest.mark.timeout(900)]

FROM, STEPS, EVERY = 100, 300, 10
BOUND = 1024
"""Bytes a step."""

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
        if "aspo_megatron.launch.rank" in words:
            found[f"rank {child.environ()['RANK']}"] = child
        elif any("multiprocessing.spawn" in word for word in words):
            found[f"worker of rank {child.environ()['RANK']}"] = child
    return found


@pytest.mark.thorough
def test_nothing_grows_with_the_steps(tmp_path: Path, work: Path) -> None:
    command = start([*ASPO, "train", str(work / "small.yaml"), *SETTINGS], tmp_path)
    run = RunFolder(tmp_path / "run")
    processes: dict[str, psutil.Process] = {}
    memory: dict[str, list[int]] = {}
    counts: list[dict[str, tuple[int, int]]] = []
    shared: list[set[str]] = []
    steps = range(FROM, STEPS, EVERY)
    for step in steps:
        wait_until(lambda step=step: len(run.metrics()) > step or command.poll() is not None, f"step {step}", 300)  # type: ignore[misc]
        assert command.poll() is None, finish(command)
        processes = processes or roles(psutil.Process(command.pid))
        for name, process in processes.items():
            if not name.startswith("rank "):  # of theirs much is freed, and kept by glibc in pieces
                memory.setdefault(name, []).append(private_bytes(process))
        counts.append({name: (process.num_fds(), process.num_threads()) for name, process in processes.items()})
        shared.append({path.name for path in Path("/dev/shm").iterdir()} if Path("/dev/shm").is_dir() else set())
    command.send_signal(signal.SIGTERM)
    assert finish(command).code == 0
    assert {"launcher", "rank 0", "rank 1", "worker of rank 0", "worker of rank 1"} == processes.keys()
    slopes = {name: typical_slope(list(zip(steps, values, strict=True))) for name, values in memory.items()}
    assert max(slopes.values()) < BOUND, slopes
    assert counts[-1] == counts[0]
    assert not shared[-1] - shared[0]


LAUNCHER = """
import sys
from pathlib import Path
from aspo_megatron.launch.launcher import launch
sys.exit(launch("measured_rank", ["run/config.yaml"], 2, 1, log_dir=Path("run/logs")))
"""
LIVE_STEPS = 400
ALL_IS_DONE = ["eval.every=20", "eval.samples=1", "eval.pass_k=[1]", "checkpoint.every=20", "checkpoint.keep=1"]


@pytest.mark.thorough
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs mallinfo2 of glibc 2.33 or newer")
def test_ranks_keep_no_memory(tmp_path: Path, work: Path) -> None:
    """Rank 0 no more than the other, though it writes the run's files. Of the later half of the steps.

    Before, oneDNN keeps kernels for each new length of a batch.
    """
    path = f"{Path(__file__).parent}:{os.environ.get('PYTHONPATH', '')}"
    # Without glibc's caches of free blocks of each thread, which count as used.
    environment = ["env", "PYTHONMALLOC=malloc", "GLIBC_TUNABLES=glibc.malloc.tcache_count=0", f"PYTHONPATH={path}"]
    settings = [*SETTINGS, *ALL_IS_DONE, f"train.steps={LIVE_STEPS}"]
    (tmp_path / "run").mkdir()
    save_config(load_config(work / "small.yaml", settings), tmp_path / "run" / "config.yaml")
    done = finish(start([*environment, sys.executable, "-c", LAUNCHER], tmp_path), timeout=800)
    assert done.code == 0, done.stderr
    slopes = {}
    for notes in sorted((tmp_path / "run" / "memory").iterdir()):
        points = [json.loads(line) for line in notes.read_text().splitlines()]
        later = [point for point in points if point[0] >= LIVE_STEPS // 2]
        assert len(later) >= 10
        slopes[notes.stem] = typical_slope(later)
    assert slopes.keys() == {"rank0", "rank1"}
    assert max(slopes.values()) < BOUND, slopes


def typical_slope(points: list[tuple[int, int]]) -> float:
    """The median of the slopes between any two points: a point that is off does not count."""
    return float(np.median([(b - a) / (after - before) for (before, a), (after, b) in combinations(points, 2)]))
