"""A scorer that prints in the way that its response names; used by import path, in worker processes."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable

from aspo_megatron.data.samples import Problem

LINE = "scored\n" + 200 * "x"
WAYS: dict[str, Callable[[], object]] = {
    "print": lambda: print(LINE, flush=True),
    "print, kept back": lambda: print(LINE),
    "print, stderr": lambda: print(LINE, file=sys.stderr),
    "bytes": lambda: sys.stdout.buffer.write(LINE.encode()) and sys.stdout.flush(),
    "descriptor": lambda: os.write(1, LINE.encode()),
    "descriptor of stderr": lambda: os.write(2, LINE.encode()),
    "logging": lambda: logging.getLogger("scorer").warning(LINE),
    "a program": lambda: subprocess.run(["printf", LINE], check=True),
    "a program, stderr": lambda: subprocess.run(["sh", "-c", 'printf %s "$0" >&2', LINE], check=True),
    "much": lambda: print(300_000 * "x", flush=True),
    "no text": lambda: os.write(1, b"\xff\x00" * 100),
}


def score(problem: Problem, response: str) -> float:
    WAYS[response]()
    return float(len(response))
