"""Runs as pictures want them: named series of one run or several, and the curve of a metric over their steps."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from aspo_megatron.errors import UserError
from aspo_megatron.folders import METRICS_FILE
from aspo_megatron.foreign_text import one_line
from aspo_megatron.metrics.record import read_metrics
from aspo_megatron.plots.names import run_names
from aspo_megatron.reading import own_file

FloatArray = npt.NDArray[np.float64]

SMOOTH_FROM = 60
"""Steps; curves with more are smoothed unless the caller says how much."""

FLAT = 1e-6
"""Values that differ by no more than this share of the largest are rounding: they are drawn as one value."""

_TAIL = 0.1  # the share of the steps over which a final figure is a mean
_LARGEST = 1e100


@dataclass(frozen=True)
class Series:
    """What one colour stands for: a run, or the runs of a group (seeds of one configuration).

    `folders` and `runs` go together: the run's folder, and its metrics by step.
    """

    name: str
    folders: tuple[Path, ...]
    runs: tuple[Sequence[Mapping[str, float]], ...]

    def has(self, metric: str) -> bool:
        """Whether a run of it recorded the metric, with a value that can be drawn."""
        return any(_is_drawable(record.get(metric, np.nan)) for run in self.runs for record in run)

    @property
    def last_steps(self) -> list[int]:
        """The last step of each run."""
        return [int(run[-1]["step"]) for run in self.runs]


@dataclass(frozen=True)
class Curve:
    """A metric over steps, each [points]: the mean over the runs, and their lowest and highest value.

    `raw` is the unsmoothed mean. Points are the steps at which every run that records the metric has a finite value.
    """

    steps: FloatArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray
    raw: FloatArray
    window: int

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class Final:
    """Where a curve ends: the mean over runs of each run's mean over its last tenth of points (at least one).

    `spread` is the sample standard deviation over runs; None for a single run.
    """

    value: float
    spread: float | None


def read_series(runs: Sequence[Path], groups: Mapping[str, Sequence[Path]]) -> list[Series]:
    """A series for each run and each group, in this order.

    Args:
        runs: run folders, or metrics.jsonl files.
        groups: name -> its runs.

    Raises:
        UserError: nothing is given, a run has no metrics, or a group is empty or has the name of another series.
    """
    if not runs and not groups:
        raise UserError("no run given to draw; name a run folder")
    series = [_one(name, [run]) for name, run in zip(run_names(runs), runs, strict=True)]
    for name, members in groups.items():
        if not members:
            raise UserError(f"group {one_line(name)}: it has no runs; write --group {one_line(name)}=RUN,RUN")
        if name in {other.name for other in series}:
            raise UserError(f"group {one_line(name)}: a run has this name already; give the group another")
        series.append(_one(name, members))
    return series


def _one(name: str, runs: Sequence[Path]) -> Series:
    folders = tuple(run.parent if os.path.isfile(run) else run for run in runs)
    if len({folder.absolute() for folder in folders}) < len(folders):
        raise UserError(f"group {one_line(name)}: a run is named twice")
    return Series(name, folders, tuple(_records(run) for run in runs))


def _records(run: Path) -> list[dict[str, float]]:
    path = run if os.path.isfile(run) else own_file(run, METRICS_FILE)
    records = read_metrics(path)
    if not records:
        raise UserError(f"{one_line(path)}: no step is recorded yet, so there is nothing to draw")
    return records


def curve(series: Series, metric: str, smooth: int | None) -> Curve:
    """The curve of a metric, empty if no run recorded it.

    Args:
        series: of one or more runs.
        metric: its name in metrics.jsonl.
        smooth: points in the moving mean; 1 for none; None for a fifteenth of the points if there are many.
    """
    values = [found for run in series.runs if (found := _drawable(run, metric))]
    shared = set.intersection(*map(set, values)) if values else set()
    steps = sorted(shared)
    if not steps:
        nothing = np.zeros(0)
        return Curve(nothing, nothing, nothing, nothing, nothing, 1)
    table = np.array([[run[step] for step in steps] for run in values], dtype=np.float64)
    window = (max(1, len(steps) // 15) if len(steps) >= SMOOTH_FROM else 1) if smooth is None else smooth
    smoothed = np.stack([moving_mean(run, window) for run in table])
    return Curve(np.array(steps), smoothed.mean(0), smoothed.min(0), smoothed.max(0), raw=table.mean(0), window=window)


def final(series: Series, metric: str, *, last_only: bool = False) -> Final | None:
    """Where a metric ends, None if no run recorded it. `last_only`: the last point alone, not the last tenth."""
    ends = []
    for run in series.runs:
        values = list(_drawable(run, metric).values())
        if values:
            count = 1 if last_only else max(1, round(_TAIL * len(values)))
            ends.append(float(np.mean(values[-count:])))
    if not ends:
        return None
    spread = float(np.std(ends, ddof=1)) if len(ends) > 1 else None
    return Final(float(np.mean(ends)), spread)


def _drawable(run: Sequence[Mapping[str, float]], metric: str) -> dict[float, float]:
    """Step -> value, where it can be drawn."""
    return {record["step"]: record[metric] for record in run if _is_drawable(record.get(metric, np.nan))}


def _is_drawable(value: float) -> bool:
    """Whether a value has a place in a figure: it is a number, and so are the ends of an axis that shows it."""
    return bool(abs(value) <= _LARGEST)


def is_flat(low: float, high: float) -> bool:
    """Whether all values between two are drawn as one."""
    return high - low <= FLAT * max(abs(low), abs(high))


def moving_mean(values: FloatArray, window: int) -> FloatArray:
    """Mean over the `window` values around each, [points]; fewer at the ends, never padding.

    An even window counts one value more before than after.
    """
    if window == 1:
        return values
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    start = np.maximum(index - window // 2, 0)
    stop = np.minimum(index + (window - 1) // 2 + 1, len(values))
    means: FloatArray = (sums[stop] - sums[start]) / (stop - start)
    return means
