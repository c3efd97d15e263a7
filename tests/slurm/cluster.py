"""Slurm as its users see it: sbatch, squeue, logs."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

COMMAND = [sys.executable, "-m", "aspo_megatron.cli", "slurm"]


@dataclass(frozen=True)
class Cluster:
    """A cluster that is up; its commands need this environment."""

    env: Mapping[str, str]

    def run(self, *argv: str, folder: Path) -> str:
        """What a command that must succeed prints."""
        done = subprocess.run(argv, cwd=folder, env=self.env, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done.stdout

    def aspo_slurm(self, *argv: str, folder: Path) -> list[str]:
        """The ids of the jobs that `aspo slurm --submit` submits."""
        told = self.run(*COMMAND, *argv, "--submit", folder=folder)
        return told.partition(";")[0].removeprefix("submitted: job ").split(", then ")

    def state(self, job: str) -> dict[str, str]:
        """The fields of `scontrol show job`."""
        words = self.run("scontrol", "show", "job", "-o", job, folder=Path()).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = 240) -> None:
        """Poll until the condition holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"{what}: not within {seconds} seconds"
            time.sleep(0.3)

    def lose(self, node: str, folder: Path) -> None:
        """End all that runs on a node, its slurmd first, as a power cut does, and have Slurm notice at once."""
        lab = Path(self.env["SLURM_CONF"]).parent
        of_node = f"{(lab / 'run/name').read_text().strip()}-{node}"
        for process in self.run("ip", "netns", "pids", of_node, folder=folder).split():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=lost", folder=folder)

    def ended(self, job: str) -> bool:
        """Whether a job has ended for good."""
        return self.state(job)["JobState"] in ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")
