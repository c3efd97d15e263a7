"""A run of `aspo train`: examples/tiny in bf16 in one process, killed by SIGKILL, gone on with to its end.

Its words and its reward are made here, so that nothing must be installed for them.
"""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from benchmarks.gpu_check import memory
from benchmarks.gpu_check.commands import REPOSITORY, Command
from benchmarks.gpu_check.lines import Place, Sheet
from benchmarks.gpu_check.policies import words

_STEPS_MORE = 3
_SECONDS_TO_DIE = 15.0
_POLL_SECONDS = 0.02
_FAR, _FAR_SHARE = "engine_log_prob_diff/above_0.1", 0.1
"""In bf16 nine tenths of the tokens are nearer than half of what a server's may be off (docs/sglang.md)."""
_LOST = 64 << 20


@dataclass(frozen=True)
class _Run:
    """A run folder, and the settings that every command for it has."""

    path: Path
    settings: tuple[str, ...]

    def command(self, steps: int) -> list[str]:
        """`aspo train` to so many steps."""
        example = str(REPOSITORY / "examples" / "tiny" / "run.yaml")
        return [
            sys.executable,
            "-m",
            "aspo_megatron.cli",
            "train",
            example,
            *self.settings,
            f"train.steps={steps}",
        ]

    def rows(self) -> list[str]:
        """The finished lines of metrics.jsonl."""
        path = self.path / "metrics.jsonl"
        text = path.read_text() if path.exists() else ""
        return [row for row in text.splitlines(keepends=True) if row.endswith("\n")]

    def metrics(self) -> list[dict[str, Any]]:
        """The same, read."""
        return [json.loads(row) for row in self.rows()]

    def saved(self) -> int:
        """The step of the newest complete state; 0 without any."""
        latest = self.path / "checkpoints" / "latest"
        return int(latest.read_text().strip().removeprefix("step-")) if latest.exists() else 0


def run(sheet: Sheet, place: Place) -> None:
    """All lines of the section."""
    deadline = time.monotonic() + place.seconds
    this = _Run(place.work / "run", _settings(place))
    free = torch.cuda.mem_get_info(place.device)[0] if place.on_gpu else 0
    before = killed(sheet, this, place, deadline)
    if before is None:
        return
    if place.on_gpu:
        lost = free - _settled_memory(place.device, free)
        note = f"{memory.mib(lost):.0f} MiB less are free"
        sheet.at_most("GPU memory that the killed run keeps", lost, _LOST, reference="none", unit="B", note=note)
    else:
        sheet.not_done("GPU memory that the killed run keeps", "needs a GPU")
    gone_on(sheet, this, place, before, deadline)


def killed(sheet: Sheet, this: _Run, place: Place, deadline: float) -> list[str] | None:
    """Kill the launcher after the second state; the lines of metrics.jsonl up to that state. None if it did not run."""
    began = time.monotonic()
    with Command(this.command(1000), place.work / "killed.txt") as command:
        while this.saved() < 2 and command.process.poll() is None and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
        if this.saved() < 2:
            ended = command.process.poll()
            how = "no second state in time" if ended is None else f"exit code {ended}"
            sheet.failed("a run begins and saves its state", f"{how}: {command.last_lines()}")
            return None
        sheet.measured("until its second state", time.monotonic() - began, "s", note=f"after step {this.saved()}")
        family = psutil.Process(command.process.pid).children(recursive=True)
        command.process.kill()
        command.process.wait()
        _all_gone(sheet, "processes left after SIGKILL of the launcher", family)
    saved = this.saved()
    return [row for row in this.rows() if json.loads(row)["step"] <= saved]


def gone_on(sheet: Sheet, this: _Run, place: Place, before: list[str], deadline: float) -> None:
    """The same command again, with a few steps more."""
    steps = this.saved() + _STEPS_MORE
    family: list[psutil.Process] = []
    with Command(this.command(steps), place.work / "gone_on.txt") as command:
        while (code := command.process.poll()) is None and time.monotonic() < deadline:
            family = _children(command.process.pid) or family
            time.sleep(10 * _POLL_SECONDS)
        if code != 0 or not (this.path / "summary.json").exists():
            sheet.failed("the killed run goes on to its end", f"exit code {code}: {command.last_lines()}")
            return
    model = (this.path / "hf" / "model.safetensors").exists()
    sheet.holds("the killed run goes on to its end", model, reference="exit code 0, the trained model")
    _all_gone(sheet, "processes left after its end", family)
    kept = this.rows()[: len(before)] == before
    sheet.holds("metrics from before the kill are kept", kept, reference="metrics.jsonl", note=f"{len(before)} lines")
    numbers = [row["step"] for row in this.metrics()]
    once = numbers == list(range(steps + 1))
    sheet.holds("each step is there once", once, reference=f"0 to {steps}", note=str(numbers))
    figures(sheet, this.metrics())


def figures(sheet: Sheet, rows: list[dict[str, Any]]) -> None:
    """What the run has logged."""
    values = [float(value) for row in rows for value in row.values()]
    strange = sum(not math.isfinite(value) for value in values)
    sheet.equal("metrics that are not finite", strange, 0, reference=f"{len(values)} numbers")
    steps = [row for row in rows if "reward/mean" in row]
    far = max(row[_FAR] for row in steps)
    mean = max(row["engine_log_prob_diff/mean"] for row in steps)
    note = f"mean at most {mean:.2g} nats"
    sheet.at_most(f"largest {_FAR} of a step", far, _FAR_SHARE, reference="the trainer", note=note)
    norm = max(row["grad_norm"] for row in steps)
    sheet.at_least("largest gradient norm", norm, 1e-6, reference="0 teaches nothing")
    first, last = steps[0]["reward/mean"], steps[-1]["reward/mean"]
    sheet.measured("reward of the last step", last, "", note=f"{first:.3f} in the first of {len(steps)}")


def _settings(place: Place) -> tuple[str, ...]:
    problems = place.work / "words.jsonl"
    rows = [json.dumps({"prompt": word, "answer": word[::-1]}) for word in words(200 if place.small else 2000)]
    problems.write_text("\n".join(rows) + "\n")
    common = (
        f"output_dir={place.work / 'run'}",
        f"model.path={REPOSITORY / 'examples' / 'tiny' / 'model'}",
        "model.dtype=bfloat16",
        f"platform.device={place.device.type}",
        "parallel.tp=1",
        "data.train.kind=jsonl",
        f"data.train.path={problems}",
        "data.train.prompt_field=prompt",
        "reward.kind=benchmarks.gpu_check.train_reward:score",
        "reward.workers=1",
        "checkpoint.every=1",
        "log.tensorboard=false",
        "eval={every: 0, samples: 1, pass_k: [1], max_problems: 8}",
    )
    if not place.small:
        return (*common, "warmup.updates=60")
    short = "rollout={prompts_per_step: 8, responses_per_prompt: 4, sampling: {max_response_tokens: 7}}"
    return (*common, "warmup={updates: 4, batch_size: 16}", short, "train.prompts_per_update=4")


def _children(pid: int) -> list[psutil.Process]:
    try:
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
        return found
    except psutil.NoSuchProcess:
        return []


def _all_gone(sheet: Sheet, name: str, family: list[psutil.Process]) -> None:
    """That no process of `family` runs on; one that has ended counts as gone, whether or not its end was noticed."""
    deadline = time.monotonic() + _SECONDS_TO_DIE
    while (alive := [process for process in family if _runs(process)]) and time.monotonic() < deadline:
        time.sleep(_POLL_SECONDS)
    note = f"{len(family)} processes; left: {[_what(process) for process in alive]}"
    sheet.equal(name, len(alive), 0, reference=f"after {_SECONDS_TO_DIE:.0f} s at most", note=note)
    for process in alive:
        process.kill()


def _runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD))
    except psutil.NoSuchProcess:
        return False


def _what(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[:4])
    except psutil.NoSuchProcess:
        return "gone"


def _settled_memory(device: torch.device, free: int) -> int:
    """Free memory of the GPU once it does not grow any more; the driver takes its time with what dead processes had."""
    deadline = time.monotonic() + _SECONDS_TO_DIE
    while (now := torch.cuda.mem_get_info(device)[0]) < free - _LOST and time.monotonic() < deadline:
        time.sleep(0.1)
    return int(now)
