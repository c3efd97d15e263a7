"""Draws one panel: the curves of all runs on one pair of axes, with keys for its quantities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aspo_megatron.foreign_text import one_line
from aspo_megatron.plots.overlap import on_top, pieces
from aspo_megatron.plots.panels import Line, Panel
from aspo_megatron.plots.series import Curve, Series, curve, is_flat
from aspo_megatron.plots.styles import Dashes, run_style, stripe

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D

_LONGEST_KEY = 40
_LARGEST = 307.0
"""Power of ten to which an axis goes at most: just below the largest number that there is."""


def short(text: object, length: int = 48) -> str:
    """A name for a place in a line, its middle left out if it is longer than `length`."""
    name = one_line(text)
    return name if len(name) <= length else f"{name[: length // 2 - 1]}…{name[-(length // 2) :]}"


def set_names(legend: Legend, names: Sequence[str]) -> None:
    """Write names into a legend that was made with others: they may have dollar signs, or begin with an underscore."""
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)


def place_single_step(cells: Sequence[Axes]) -> None:
    """Where panels that share their steps have one step in all, it stands in the middle, with one tick."""
    low, high = min(axes.dataLim.xmin for axes in cells), max(axes.dataLim.xmax for axes in cells)
    if low == high:
        for axes in cells:
            axes.set_xlim(low - 0.6, high + 0.6)
            axes.set_xticks([low])


def draw_panel(axes: Axes, panel: Panel, series: Sequence[Series], smooth: int | None) -> int:
    """Draw all of a panel; returns the widest moving mean in it, in points."""
    axes.set_title(panel.title, fontsize=10.5)
    axes.set_ylabel(panel.unit, fontsize=9)
    axes.tick_params(labelsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    if panel.guide is not None:
        axes.axhline(panel.guide, color="0.6", linewidth=0.8, zorder=1)
    drawn: list[Curve] = []
    for line in panel.lines:
        curves = {
            number: points
            for number, (one, metric) in enumerate(zip(series, line.metrics, strict=True))
            if metric is not None and len(points := curve(one, metric, 1 if line.sparse else smooth))
        }
        banded = [number for number in curves if len(series[number].runs) > 1]
        _draw_line(axes, curves, line, banded, log=panel.log)
        drawn += curves.values()
    positive = any((points.mean > 0).any() for points in drawn)
    if panel.log and positive:
        axes.set_yscale("log")
    _finish_axes(axes, panel, _keys(panel, run_style(0).color if len(series) == 1 else "0.3"))
    return max((points.window for points in drawn), default=1)


def _draw_line(axes: Axes, curves: dict[int, Curve], line: Line, banded: Sequence[int], *, log: bool) -> None:
    """Draw a quantity of each run. Where curves lie on each other, their dashes take turns."""
    cut, above = pieces(curves, log=log), on_top(curves, log=log)
    for number, points in curves.items():
        color = run_style(number).color
        if number in banded:
            axes.fill_between(points.steps, points.low, points.high, color=color, alpha=0.18, linewidth=0)
        elif points.window > 1:
            axes.plot(points.steps, points.raw, color=color, linewidth=0.7, alpha=0.25)
        inside = bool(points.mean.any())  # a line at the axis is not cut in half
        for piece in cut[number]:
            dashes = stripe(piece.turn, piece.of, apart=line.style != "-") if piece.of > 1 else _dashes(line, number)
            axes.plot(piece.steps, piece.values, color=color, linestyle=dashes, linewidth=1.6, clip_on=inside)
        _draw_marks(axes, points, line, number, above[number], clip_on=inside)


def _dashes(line: Line, number: int) -> Dashes:
    """The first quantity has the run's own line; others have theirs."""
    return run_style(number).dashes if line.style == "-" else line.style


def _draw_marks(axes: Axes, points: Curve, line: Line, number: int, above: int, *, clip_on: bool) -> None:
    style = run_style(number)
    every: int | tuple[int, int] | None = None
    few = line.sparse or len(points) == 1
    if not few:
        if not style.marker:
            return
        step = max(1, len(points) // 6)
        every = (number * max(1, step // 3) % step, step)  # runs that lie on each other have theirs at other steps
    axes.plot(
        points.steps,
        points.mean,
        color=style.color,
        linestyle="",
        marker=style.marker or "o",
        markersize=5.0 + (3.0 * min(above, 4) if few else 0.0),  # rings where points lie on each other
        markevery=every,
        markerfacecolor="white" if style.marker else style.color,
        markeredgecolor=style.color if style.marker else "white",
        markeredgewidth=1.2 if style.marker else 0.5,
        clip_on=clip_on and not few,
        zorder=2.5,
    )


def _keys(panel: Panel, color: str) -> list[Line2D]:
    """Keys of the panel's lines; with several series in grey, as colours are series then."""
    from matplotlib.lines import Line2D

    return [
        Line2D(
            [],
            [],
            color=color,
            linestyle=line.style,
            linewidth=1.6,
            marker="o" if line.sparse else "",
            markersize=4.5,
            label=f"{number}",
        )
        for number, line in enumerate(panel.lines)
        if line.label
    ]


def _finish_axes(axes: Axes, panel: Panel, keys: list[Line2D]) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator, ScalarFormatter

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    room = 0.12 * len(keys)  # above the lines, for the keys
    if axes.get_yscale() == "log":
        low, high = axes.get_ylim()
        top = math.log10(high) + room * (math.log10(high) - math.log10(low))
        axes.set_ylim(low, max(high, 10 ** min(top, _LARGEST)))
    else:
        if panel.percent:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _share(value)))
        else:
            axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
        low, high = _extent(axes, panel)
        axes.set_ylim(low, high + room * (high - low))
    if keys:
        legend = axes.legend(
            handles=keys, fontsize=8, frameon=False, loc="upper left", handlelength=2.4, labelspacing=0.3, borderpad=0.1
        )
        set_names(legend, [short(line.label, _LONGEST_KEY) for line in panel.lines if line.label])


def _share(value: float) -> str:
    """A tick of shares. None has a name above 100% or below 0%, where there is only room."""
    return f"{100 * value:g}%" if -1e-9 <= value <= 1 + 1e-9 else ""


def _extent(axes: Axes, panel: Panel) -> tuple[float, float]:
    """The ends of a linear axis. Round what is flat, there is room that is in keeping with its value."""
    least, most = float(axes.dataLim.ymin), float(axes.dataLim.ymax)
    low, high = axes.get_ylim()
    size = max(abs(least), abs(most))
    nothing = 0.01 if panel.percent and panel.from_zero else 0.1 if panel.percent else 1.0
    flat = math.isfinite(size) and is_flat(least, most)
    if flat:
        room = 0.1 * size or nothing
        low, high = (least - room, most + room) if size else (-0.1 * room, room)
        if panel.percent and not panel.from_zero:
            low, high = max(low, -0.01), min(high, 1.01)
    if panel.from_zero and least >= 0:
        low, high = 0.0, high if most > 0 else nothing
    if flat and panel.from_zero and least > 0:
        high = 1.25 * most
    return low, high
