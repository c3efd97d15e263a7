"""The figure for a terminal: a line of blocks for every curve, in 80 columns or more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.text import Text

from aspo_megatron.metrics.console import lines, print_text, words
from aspo_megatron.plots.alarms.told import Told, told_of
from aspo_megatron.plots.figures import SeriesTable, config_differences, deviation, number
from aspo_megatron.plots.panel_drawing import short
from aspo_megatron.plots.panels import Panel, panels_of
from aspo_megatron.plots.series import Curve, FloatArray, Series, curve, final, is_flat
from aspo_megatron.plots.styles import COLORS

BLOCKS = "▁▂▃▄▅▆▇█"
ASCII = "_.-~=+*#"
"""Heights, from the lowest."""
_LONGEST_NAME = 28
_WIDEST = 140
_BRIEF = {
    "Held-out accuracy": "Held-out",
    "Training reward": "Reward",
    "Response length": "Length",
    "Entropy": "Entropy",
    "Out of the clip range, A > 0": "Clip, A > 0",
    "Out of the clip range, A < 0": "Clip, A < 0",
    "Gradient norm": "Gradient norm",
}
"""Panels of which `brief_figure` shows the curves, and how it calls them."""


@dataclass(frozen=True)
class _Row:
    """A curve with its texts: what it is called, where it begins and ends; `under` is its heading, if any."""

    under: str
    name: str
    points: Curve
    begin: str
    end: str
    color: str


def print_figure(series: Sequence[Series], console: Console, smooth: int | None = None) -> None:
    """Print the figure, the alarms of the runs, and the settings in which the runs differ.

    The curves of a panel share a scale, which stands above them, and the steps, so that they can be compared. In
    front of each is its first value, behind it the final figure. A console that has ASCII alone gets ASCII.

    Raises:
        UserError: see `config_differences`.
    """
    panels, missing = panels_of(series)
    rows = {panel: _rows(panel, series, smooth) for panel in panels}
    every = [row for panel in panels for row in rows[panel]]
    name = max((len(row.name) for row in every), default=0)
    begin = max((len(row.begin) for row in every), default=0)
    end = max((len(row.end) for row in every), default=0)
    width = max(10, min(console.width, _WIDEST) - name - begin - end - 5)
    levels = ASCII if console.options.ascii_only else BLOCKS
    drawn = [row.points for row in every if len(row.points)]
    span = (min((p.steps[0] for p in drawn), default=0.0), max((p.steps[-1] for p in drawn), default=0.0))
    title = (f"{short(series[0].name)}  " if len(series) == 1 else "", "bold")
    steps = (f"steps {span[0]:.0f} to {span[1]:.0f}; first value, curve, final figure\n", "dim")
    print_text(console, lines(title, steps))
    for panel in panels:
        _print_panel(panel, rows[panel], console, (name, begin, width), span, levels)
    if missing:
        print_text(console, words(f"not recorded: {', '.join(missing)}", style="dim"))
    _print_alarms(told_of(series), console)
    _print_differences(config_differences(series), console)


def brief_figure(one: Series, width: int, *, ascii_only: bool) -> Text:
    """A line for each curve of one series, its scale its own: the quantities that tell how a run is doing.

    Args:
        one: with at least one step.
        width: columns.
        ascii_only: draw in ASCII.
    """
    panels = [panel for panel in panels_of([one])[0] if panel.title in _BRIEF]
    rows = [(panel, row) for panel in panels for row in _rows(panel, [one], None) if len(row.points)]
    names = [
        short(f"{_BRIEF[panel.title]}: {row.name}" if row.name else _BRIEF[panel.title], _LONGEST_NAME + 4)
        for panel, row in rows
    ]
    name, begin, end = (
        max((len(text) for text in texts), default=0)
        for texts in (names, [row.begin for _, row in rows], [row.end for _, row in rows])
    )
    columns = max(8, min(width, _WIDEST) - name - begin - end - 5)
    span = (
        (min(row.points.steps[0] for _, row in rows), max(row.points.steps[-1] for _, row in rows)) if rows else (0, 0)
    )
    text = lines()
    for (panel, row), label in zip(rows, names, strict=True):
        heights = _heights(row.points.mean, panel)
        scale = (float(heights.min()), float(heights.max()))
        drawing = blocks(row.points.steps, heights, scale, span, columns, ASCII if ascii_only else BLOCKS)
        text.append_text(words(f"  {label:<{name}} {row.begin:>{begin}} ", (drawing, row.color), f" {row.end}"))
        text.append_text(lines("\n"))
    return text


def _rows(panel: Panel, series: Sequence[Series], smooth: int | None) -> list[_Row]:
    rows = []
    for line in panel.lines:
        for index, (one, metric) in enumerate(zip(series, line.metrics, strict=True)):
            end = None if metric is None else final(one, metric, last_only=line.sparse)
            if metric is None or end is None:
                continue
            points = curve(one, metric, 1 if line.sparse else smooth)
            spread = "" if end.spread is None else f" ±{deviation(end.spread, percent=panel.percent)}"
            rows.append(
                _Row(
                    line.label if len(series) > 1 else "",
                    short(one.name if len(series) > 1 else line.label, _LONGEST_NAME),
                    points,
                    number(float(points.mean[0]), percent=panel.percent) if len(points) else "",
                    number(end.value, percent=panel.percent) + spread,
                    _color(index),
                )
            )
    return rows


def _color(index: int) -> str:
    """Of a series; that which is black has the terminal's own."""
    color = COLORS[index % len(COLORS)]
    return "" if color == "#000000" else color


def _print_panel(
    panel: Panel,
    rows: Sequence[_Row],
    console: Console,
    widths: tuple[int, int, int],
    span: tuple[float, float],
    levels: str,
) -> None:
    """Print a panel's curves under their common scale. `widths`: columns for names, first values and curves."""
    name, begin, width = widths
    drawn = [row.points for row in rows if len(row.points)]
    heading = [(panel.title, "bold")]
    scale = (0.0, 0.0)
    if drawn:
        heights = np.concatenate([_heights(points.mean, panel) for points in drawn])
        scale = (float(heights.min()), float(heights.max()))
        low, high = (number(10**end if panel.log else end, percent=panel.percent) for end in scale)
        extent = f"{low} throughout" if is_flat(*scale) else f"{low} to {high}{' (log)' if panel.log else ''}"
        heading.append((f"  {panel.unit}, {extent}", "dim"))
    print_text(console, words(*heading))
    under = ""
    for row in rows:
        if row.under != under:
            print_text(console, words(f" {row.under}"))
            under = row.under
        heights = _heights(row.points.mean, panel)
        drawing = blocks(row.points.steps, heights, scale, span, width, levels)
        head = f"  {row.name:<{name}} {row.begin:>{begin}} "
        print_text(console, words(head, (drawing, row.color), f" {row.end}"))
    print_text(console, words())


def _heights(values: FloatArray, panel: Panel) -> FloatArray:
    """What the height of a block stands for, [points]; on a log scale, zero is as low as 1e-12."""
    heights: FloatArray = np.log10(np.maximum(values, 1e-12)) if panel.log else values
    return heights


def blocks(
    steps: FloatArray,
    heights: FloatArray,
    scale: tuple[float, float],
    span: tuple[float, float],
    width: int,
    levels: str,
) -> str:
    """`width` characters for the steps of `span`: the mean of the points in each, or what lies between neighbours.

    What is flat is at half the height: at the lowest it would look like nothing.

    Args:
        steps: [points], ascending.
        heights: [points], finite.
        scale: which heights are the lowest and the highest of the levels.
        span: the first and the last step that the characters stand for.
        width: characters.
        levels: `BLOCKS` or `ASCII`.
    """
    if not len(steps):
        return f"{'no step that all runs have':<{width}}"[:width]
    low, high = scale
    edges = np.linspace(span[0], span[1], width + 1)
    which = np.clip(np.searchsorted(edges, steps, side="right") - 1, 0, width - 1)
    sums, counts = np.bincount(which, heights, width), np.bincount(which, minlength=width)
    filled = np.flatnonzero(counts)
    columns = np.arange(width)
    means = np.interp(columns, filled, sums[filled] / counts[filled])
    top = len(levels) - 1
    ranks = (
        np.clip(np.rint((means - low) / (high - low) * top), 0, top)
        if not is_flat(low, high)
        else np.full(width, top // 2)
    )
    inside = (columns >= filled[0]) & (columns <= filled[-1])
    return "".join(levels[int(rank)] if drawn else " " for rank, drawn in zip(ranks, inside, strict=True))


def _print_alarms(told: Sequence[Told], console: Console) -> None:
    """Each with what to do, where it was raised first."""
    if told:
        print_text(console, words(("Alarms", "bold")))
    for one in told:
        heading = (f"{one.where}: {one.raised.name}", "bold red")
        print_text(console, words(" ", heading, f": {one.raised.line}"), wrap=True)
    if told:
        print_text(console, words())


def _print_differences(table: SeriesTable, console: Console) -> None:
    """A setting, and below it the value of each series."""
    if not table.rows:
        return
    print_text(console, words("Settings that differ", style="bold"))
    names = [short(column, _LONGEST_NAME) for column in table.columns]
    width = max(map(len, names))
    for label, cells in table.rows:
        print_text(console, words(f" {label}"))
        for name, cell in zip(names, cells, strict=True):
            print_text(console, words(f"  {name:<{width}} {cell}"))
