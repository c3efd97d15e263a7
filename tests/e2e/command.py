"""Runs the `aspo` command as a user does: a process of its own, in a folder of its own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

TINY_MODEL = Path(__file__).parents[2] / "examples" / "tiny" / "model"
ASPO = [str(Path(sys.executable).with_name("aspo"))]
MODULE = [sys.executable, "-m", "aspo_megatron.cli"]

SETTINGS = f"""
model: {{path: {TINY_MODEL}, init: random}}
data:
  train:
    kind: reasoning_gym
    family: chain_sum
    params: {{min_terms: 2, max_terms: 2, min_digits: 1, max_digits: 1}}
    prompt_field: expression
    size: 400
  heldout_fraction: 0.2
  format: raw
  template: "{{prompt}} ="
rollout:
  prompts_per_step: 6
  responses_per_prompt: 4
  sampling: {{max_response_tokens: 4, stop: ["+"]}}
reward: {{kind: reasoning_gym}}
loss: {{name: aspo, kl_coef: 0.01}}
optimizer: {{lr: 1.0e-3, weight_decay: 0.0}}
train: {{steps: 4, prompts_per_update: 3, max_tokens_per_micro_batch: 200}}
eval: {{every: 2, samples: 2, pass_k: [1, 2], max_problems: 20}}
"""
"""A run of seconds: two updates a step, several micro-batches an update. No output_dir, one process."""


@dataclass(frozen=True)
class Finished:
    """A command that has ended."""

    code: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class RunFolder:
    """What a run has written."""

    path: Path

    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, whole ones only."""
        path = self.path / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def step(self, step: int) -> dict[str, float]:
        """The metrics of a step without those that measure time."""
        (found,) = [line for line in self.metrics() if line["step"] == step]
        return {name: value for name, value in found.items() if not name.startswith(("seconds/", "tokens_per_second"))}

    def evaluation(self, step: int) -> list[dict[str, Any]]:
        """Every response of the evaluation at a step."""
        return [json.loads(line) for line in (self.path / "eval" / f"step-{step:06d}.jsonl").read_text().splitlines()]

    def latest(self) -> int:
        """The step of the state that `latest` names."""
        return int((self.path / "checkpoints" / "latest").read_text().removeprefix("step-"))

    def summary(self) -> dict[str, Any]:
        """summary.json."""
        summary: dict[str, Any] = json.loads((self.path / "summary.json").read_text())
        return summary


def start(command: Sequence[str], folder: Path) -> subprocess.Popen[str]:
    """Start a command in `folder`, in a process group of its own, as a shell does."""
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
        # Tests that run in the background have SIGINT ignored, which a child inherits.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )


def finish(process: subprocess.Popen[str], timeout: float = 200) -> Finished:
    """Wait for a command to end; one that does not is ended with all its processes."""
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        for each in [*psutil.Process(process.pid).children(recursive=True), process]:
            each.kill()
        raise
    return Finished(process.returncode, stdout, stderr)


def aspo(*argv: object, folder: Path, command: Sequence[str] = ASPO) -> Finished:
    """Run the `aspo` command to its end."""
    return finish(start([*command, *map(str, argv)], folder))


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 120) -> None:
    """Poll until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} seconds"
        time.sleep(0.05)
