"""Which curves lie on each other, and where: the upper would hide the lower."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from aspo_megatron.plots.series import Curve, FloatArray, is_flat

_FINE = 400
"""Heights of a panel that are told apart: about two thirds of a pixel in a figure."""

_Point = tuple[float, int]


@dataclass(frozen=True)
class Piece:
    """A part of a curve, [points] each, that lies on the curves of `of` runs, itself included; it is the `turn`-th."""

    steps: FloatArray
    values: FloatArray
    turn: int
    of: int


def pieces(curves: Mapping[int, Curve], *, log: bool = False) -> dict[int, list[Piece]]:
    """The curves of several runs in one panel, by run, each cut where it begins or ends to lie on others.

    Args:
        curves: by number of the run.
        log: the panel has a log scale.
    """
    places = _places(curves, log=log)
    users: defaultdict[tuple[_Point, _Point], list[int]] = defaultdict(list)
    for run, points in places.items():
        for segment in pairwise(points):
            users[segment].append(run)
    return {run: _cut(run, curve, places[run], users) for run, curve in curves.items()}


def on_top(curves: Mapping[int, Curve], *, log: bool = False) -> dict[int, int]:
    """By run: how many later ones have a point where it has one, so that its marks must be larger to be seen."""
    places = _places(curves, log=log)
    users: defaultdict[_Point, list[int]] = defaultdict(list)
    for run, points in places.items():
        for point in points:
            users[point].append(run)
    return {
        run: max((sum(other > run for other in users[point]) for point in points), default=0)
        for run, points in places.items()
    }


def _places(curves: Mapping[int, Curve], *, log: bool) -> dict[int, list[_Point]]:
    """Step and height of each point; heights are counted in what can be told apart."""
    heights = {run: np.log10(np.maximum(curve.mean, 1e-300)) if log else curve.mean for run, curve in curves.items()}
    filled = [values for values in heights.values() if len(values)]
    low, high = (float(min(map(np.min, filled))), float(max(map(np.max, filled)))) if filled else (0.0, 0.0)
    scale = 0.0 if is_flat(low, high) or high - low < 1e-300 else _FINE / (high - low)
    return {
        run: list(zip(curves[run].steps.tolist(), np.rint((values - low) * scale).astype(int).tolist(), strict=True))
        for run, values in heights.items()
    }


def _cut(run: int, curve: Curve, points: list[_Point], users: Mapping[tuple[_Point, _Point], list[int]]) -> list[Piece]:
    if len(points) < 2:
        return [Piece(curve.steps, curve.mean, 0, 1)]
    shared = [users[segment] for segment in pairwise(points)]
    starts = [i for i in range(len(shared)) if i == 0 or shared[i] != shared[i - 1]]
    return [
        Piece(curve.steps[start : stop + 1], curve.mean[start : stop + 1], shared[start].index(run), len(shared[start]))
        for start, stop in zip(starts, [*starts[1:], len(shared)], strict=True)
    ]
