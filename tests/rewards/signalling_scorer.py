"""A scorer that signals a group of processes, as its response says, which it may take for its program's alone."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable

from aspo_megatron.data.samples import Problem


def through_a_program(number: int) -> None:
    program = subprocess.Popen(["sleep", "60"])
    os.killpg(os.getpgid(program.pid), number)


WAYS: dict[str, Callable[[int], object]] = {
    "own group": lambda number: os.killpg(0, number),
    "group of this": lambda number: os.killpg(os.getpgid(0), number),
    "kill 0": lambda number: os.kill(0, number),
    "group of a program": through_a_program,
    "shell": lambda number: subprocess.run(["sh", "-c", f"kill -{number} 0"], check=False),
}


def score(problem: Problem, response: str) -> float:
    way, _, name = response.partition(": ")
    if way in WAYS:
        WAYS[way](int(signal.Signals[name]))
    return float(len(response))
