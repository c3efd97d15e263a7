"""Sections run in a test's own process, in their small form on the CPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.gpu_check.lines import Line, Place, Sheet, Status, read_lines

Run = Callable[[Sheet, Place], None]


def small_lines(run: Run, folder: Path, seconds: float = 100.0) -> list[Line]:
    """The lines that `run(sheet, place)` writes."""
    (folder / "work").mkdir(exist_ok=True)
    path = folder / "lines.jsonl"
    path.unlink(missing_ok=True)
    place = Place(torch.device("cpu"), small=True, gpus=0, work=folder / "work", seconds=seconds)
    run(Sheet("section", path, on_gpu=False), place)
    return list(read_lines(path))


def failed(lines: list[Line]) -> list[str]:
    """Names of the lines that failed."""
    return [line.name for line in lines if line.status is Status.FAILED]


def claims(lines: list[Line]) -> list[str]:
    """Names of the lines that say something of a GPU: none may, on a CPU."""
    return [line.name for line in lines if line.status is Status.PASSED]
