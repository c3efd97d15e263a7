"""Plays a subject's cases: a folder is copied, spoiled and read, again and again."""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks.fuzz.mutations import MARKER_VARIABLE
from benchmarks.fuzz.subjects import SUBJECTS, write_problems

_PATIENCE_SECONDS = 60.0
"""How long a case may take: reading takes milliseconds, and the machine may be busy."""
_START_SECONDS = 300.0

RECIPE = """\
output_dir: run
model: {path: MODEL, init: random}
data:
  train: {kind: reasoning_gym, family: chain_sum, size: 20}
  format: raw
  heldout_fraction: 0.2
rollout: {prompts_per_step: 2, responses_per_prompt: 2, sampling: {max_response_tokens: 4}}
reward: {kind: reasoning_gym}
train: {steps: 1, prompts_per_update: 2}
eval: {every: 1, samples: 1, pass_k: [1]}
"""


@dataclass
class Finding:
    """A case that went wrong."""

    subject: str
    case: int
    changed: list[str]
    wrong: list[str]


@dataclass
class Tally:
    """What came of a subject's cases."""

    cases: int = 0
    refused: int = 0
    findings: list[Finding] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)


def make_good(folder: Path, model: Path) -> None:
    """A folder with a small run, of one step, and with problems.

    Raises:
        subprocess.CalledProcessError: the run has failed.
    """
    folder.mkdir(parents=True)
    write_problems(folder / "problems.jsonl")
    (folder / "run.yaml").write_text(RECIPE.replace("MODEL", str(model.resolve())), encoding="utf-8")
    command = [sys.executable, "-m", "aspo_megatron.cli", "train", "run.yaml"]
    subprocess.run(command, cwd=folder, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    path = folder / "run" / "hf" / "tokenizer_config.json"
    template = "{% for message in messages %}{{ message['role'] + ': ' + message['content'] }}{% endfor %}"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"chat_template": template}))


class Reader:
    """The process that reads a subject's folders; started again when it has ended."""

    def __init__(self, command: Sequence[str], good: Path, marker: Path, patience: float = _PATIENCE_SECONDS) -> None:
        """Args: see `child`; `patience`: how long a case may take, in seconds."""
        self._command = [*command, str(good)]
        self._patience = patience
        self._good = good
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)  # the child stands in the good folder
        self._environment = {**os.environ, "PYTHONPATH": paths, MARKER_VARIABLE: str(marker), "HF_HUB_OFFLINE": "1"}
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._end()

    def read(self, folder: Path) -> dict[str, Any]:
        """What came of a folder; see `child`."""
        process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(json.dumps(str(folder)) + "\n")
        process.stdin.flush()
        line = self._line(process, self._patience)
        if line:
            told: dict[str, Any] = json.loads(line)
            return told
        code = process.poll()
        self._end()
        what = f"no end within {self._patience:g} seconds" if code is None else f"the process has ended by {code}"
        return {"refused": None, "wrong": [what]}

    def _start(self) -> subprocess.Popen[str]:
        self._process = process = subprocess.Popen(
            self._command,
            cwd=self._good,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        if self._line(process, _START_SECONDS) != "ready\n":
            raise RuntimeError(f"the good folder cannot be read: {' '.join(self._command)}")
        return process

    @staticmethod
    def _line(process: subprocess.Popen[str], seconds: float) -> str:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        line = process.stdout.readline() if ready else ""
        if ready and not line:
            process.wait()
        return line

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def spoiled(good: Path, target: Path, subject: str, seed: int, case: int) -> list[str]:
    """Make a case: `good` with some files changed. The same for the same seed; the names of the changed files."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(good, target, symlinks=True)
    return SUBJECTS[subject].spoil(target, random.Random(f"{seed} {subject} {case}"))


def play(subject: str, good: Path, work: Path, seed: int, seconds: float, first: int = 0) -> Tally:
    """Read cases of a subject for some seconds. Folders of wrong ones stay in `work`."""
    tally = Tally()
    slug = subject.replace(" ", "-")
    end = time.monotonic() + seconds
    case = first
    with Reader([sys.executable, "-m", "benchmarks.fuzz.child", subject], good, work / "marker") as reader:
        while time.monotonic() < end:
            target = work / f"{slug}-{seed}-{case}"
            changed = spoiled(good, target, subject, seed, case)
            told = reader.read(target)
            tally.cases += 1
            if told["refused"] is not None:
                tally.refused += not told["wrong"]
                tally.reasons[told["refused"].replace(str(target), "")[:60]] += 1
            if told["wrong"]:
                tally.findings.append(Finding(subject, case, changed, told["wrong"]))
            else:
                shutil.rmtree(target)
            case += 1
    return tally
