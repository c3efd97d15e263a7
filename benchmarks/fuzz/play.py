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
from benchmarks.fuzz.subjects import SUBJECTS

_PATIENCE_SECONDS = 60.0
"""How long a case may take: reading takes milliseconds, and the machine may be busy."""
_START_SECONDS = 300.0


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


class Reader:
    """The process that reads a subject's folders; started again when it has ended."""

    def __init__(self, command: Sequence[str], good: Path, marker: Path, patience: float = _PATIENCE_SECONDS) -> None:
        """Args: see `child`; `patience`: how long a case may take, in seconds."""
        self._command = [*command, str(good)]
        self._patience = patience
        self.good = good
        paths = os.pathsep.join(path or os.getcwd() for path in sys.path)  # the child stands in the good folder
        self._environment = {**os.environ, "PYTHONPATH": paths, MARKER_VARIABLE: str(marker), "HF_HUB_OFFLINE": "1"}
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._end()

    def read(self, subject: str, folder: Path) -> dict[str, Any]:
        """What came of a folder; see `child`."""
        process = self._process or self._start()
        assert process.stdin is not None
        process.stdin.write(json.dumps([subject, str(folder)]) + "\n")
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
            cwd=self.good,
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


def child(*subjects: str) -> list[str]:
    """The command of a process that reads these."""
    return [sys.executable, "-m", "benchmarks.fuzz.child", *subjects]


def spoiled(good: Path, target: Path, subject: str, seed: int, case: int) -> list[str]:
    """Make a case: `good` with some files changed. The same for the same seed; the names of the changed files."""
    return SUBJECTS[subject].make_case(good, target, random.Random(f"{seed} {subject} {case}"))


def play(reader: Reader, subject: str, work: Path, seed: int, seconds: float, first: int = 0) -> Tally:
    """Read cases of a subject for some seconds. Folders of wrong ones stay in `work`."""
    tally = Tally()
    slug = subject.replace(" ", "-")
    end = time.monotonic() + seconds
    case = first
    while time.monotonic() < end:
        target = work / f"{slug}-{seed}-{case}"
        changed = spoiled(reader.good, target, subject, seed, case)
        told = reader.read(subject, target)
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
