"""Processor time of a rank's start, all that it imports: searching rarely for garbage against Python's own rules.

    python -m benchmarks.start

Each start is a process of its own. Both ways take turns.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import sys
from typing import Annotated

import torch
import typer

from benchmarks.measure import machine

_START = """
from aspo_megatron.launch import garbage
{search}
import aspo_megatron.train.main
from aspo_megatron.parallel.device.platform import CpuPlatform
CpuPlatform().install()
import aspo_megatron.train.trainer, transformers.modeling_utils
garbage.skip_last_search()
"""


def main(rounds: Annotated[int, typer.Option(min=1, help="Starts of each kind.")] = 5) -> None:
    """Measure and print both medians and their ratio."""
    typer.echo(machine(torch.device("cpu")))
    _seconds("")  # files are read from the disk, and compiled, once
    by_rules, rarely = [], []
    for _ in range(rounds):
        by_rules.append(_seconds(""))
        rarely.append(_seconds("garbage.search_rarely()"))
    ratio = statistics.median(a / b for a, b in zip(by_rules, rarely, strict=True))
    for name, seconds in (("by Python's rules", by_rules), ("rarely", rarely)):
        typer.echo(f"{name:<18} {statistics.median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f} s)")
    typer.echo(f"ratio {ratio:.2f}")


def _seconds(search: str) -> float:
    """Processor seconds of one start, from its first to its last."""
    before = _of_children()
    subprocess.run([sys.executable, "-W", "ignore", "-c", _START.format(search=search)], check=True)
    return _of_children() - before


def _of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    typer.run(main)
