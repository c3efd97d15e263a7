"""Takes a run's record back to an earlier step, from which the run resumes."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

from aspo_megatron.files import plain_errors, whole_file
from aspo_megatron.folders import EVALUATIONS, METRICS_FILE, SAMPLES_FILE, TENSORBOARD
from aspo_megatron.foreign_text import one_line
from aspo_megatron.metrics.damaged_lines import Line, named, named_spans, read_lines, set_aside


def cut_back(run_dir: Path, step: int, warn: Callable[[str], None]) -> None:
    """Remove lines and evaluations of later steps than `step`. TensorBoard is told to, when its writer opens."""
    for name in (METRICS_FILE, SAMPLES_FILE):
        path = run_dir / name
        with plain_errors(path):
            _cut_lines(path, step, warn)
    if step < 0:
        shutil.rmtree(run_dir / TENSORBOARD, ignore_errors=True)
    for path in (run_dir / EVALUATIONS).glob("step-*.jsonl"):
        number = path.stem.removeprefix("step-")
        if number.isdecimal() and int(number) > step:
            path.unlink()
    for path in (run_dir / EVALUATIONS).glob("*.partial"):
        path.unlink()


def _cut_lines(path: Path, step: int, warn: Callable[[str], None]) -> None:
    """Keep the lines up to a step; what is damaged is set aside, and told.

    What goes stands at the end as a rule: then the file is cut off there, which a full disk allows.
    """
    if step < 0:  # nothing is kept
        if path.is_file():
            os.truncate(path, 0)
        return
    is_metrics = path.name == METRICS_FILE
    there: set[int] = set()
    damaged: list[Line] = []
    position = end = kept = 0
    for line in read_lines(path, numbers_only=is_metrics) if path.is_file() else ():
        position += len(line.data)
        if line.record is None:
            damaged.append(line)
        elif line.step <= step:
            there.add(line.step)
            kept, end = kept + len(line.data), position
    told = []
    if damaged:
        aside = set_aside(path, damaged)
        told.append(f"{named('line', [line.number for line in damaged])}: damaged, now in {aside.name}")
    if kept < end:
        with whole_file(path) as partial, partial.open("wb") as file:
            for line in read_lines(path, numbers_only=is_metrics):
                if line.record is not None and line.step <= step:
                    file.write(line.data)
    elif path.is_file():
        os.truncate(path, end)
    known = [0, *sorted(there - {0}), step + 1] if is_metrics else []
    # The step may be any number that a folder is named by.
    missing = [range(before + 1, after) for before, after in pairwise(known) if after - before > 1]
    if missing:
        told.append(f"{named_spans('step', missing)} missing: what was recorded then is lost, the states are whole")
    if told:
        warn(f"warning: {one_line(path)}, {'; '.join(told)}; the run continues")
