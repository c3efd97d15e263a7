"""What tests of sections do in processes of their own, on the CPU or on the stand-in for a GPU."""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from aspo_megatron.simulation.rank import simulated_rank
from benchmarks.gpu_check.lines import Line, Place, Sheet, Status, read_lines
from benchmarks.gpu_check.policies import SINGLE

Lines = dict[str, Line]


def failed(lines: Lines) -> set[str]:
    return {name for name, line in lines.items() if line.status is Status.FAILED}


def held(lines: Lines) -> set[str]:
    return {name for name, line in lines.items() if line.status in (Status.ON_CPU, Status.PASSED)}


def not_done(lines: Lines) -> set[str]:
    return {name for name, line in lines.items() if line.status is Status.NOT_DONE}


def cpu(work: Path) -> Place:
    return Place(torch.device("cpu"), True, 0, work, 280.0)


def section(name: str, folder: Path, plant: Callable[[], None] | None = None) -> Lines:
    """The lines of a section, small on the CPU; `plant` puts a fault in before. In a process that is forked for it."""
    (folder / "work").mkdir(parents=True)
    run = importlib.import_module(f"benchmarks.gpu_check.{name}").run
    return written(folder, lambda sheet: run(sheet, cpu(folder / "work")), plant)


def written(folder: Path, work: Callable[[Sheet], object], plant: Callable[[], None] | None = None) -> Lines:
    """What `work` writes, in a process that is forked for it, so that what `plant` changes does not stay."""
    path = folder / "lines.jsonl"

    def do() -> None:
        if plant is not None:
            plant()
        work(Sheet("section", path, on_gpu=False))

    process = multiprocessing.get_context("fork").Process(target=do)
    process.start()
    process.join()
    assert process.exitcode == 0
    return {line.name: line for line in read_lines(path)}


@contextmanager
def stand_in(folder: Path, plant: Callable[[], None] | None = None) -> Iterator[tuple[Any, Sheet, Lines]]:
    """A simulated rank, a sheet for it, and what was written when the block has ended."""
    folder.mkdir(parents=True)
    lines: Lines = {}
    with simulated_rank(SINGLE) as rank:
        if plant is not None:
            plant()
        ledger = rank.ledger
        initialised: list[bool] = []
        torch.cuda.init = lambda: initialised.append(True)
        names = ("requested_bytes.all.current", "requested_bytes.all.peak")
        torch.cuda.memory_stats = lambda: (  # type: ignore[misc, assignment]  # as PyTorch: nothing before
            dict(zip(names, (ledger.held_bytes, ledger.peak_bytes), strict=True)) if initialised else {}
        )
        torch.cuda.reset_peak_memory_stats = ledger.clear  # type: ignore[assignment]
        torch.cuda._sleep = lambda cycles: None
        yield rank, Sheet("section", folder / "lines.jsonl", on_gpu=True), lines
    lines |= {line.name: line for line in read_lines(folder / "lines.jsonl")}
