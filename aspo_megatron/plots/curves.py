"""Draws the figure of one or several runs: the quantities that the ASPO paper plots, over the steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from aspo_megatron.errors import UserError
from aspo_megatron.files import whole_file
from aspo_megatron.foreign_text import one_line
from aspo_megatron.plots.panels import Line, Panel, panels_of
from aspo_megatron.plots.series import Curve, Series, curve, read_series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from matplotlib.lines import Line2D

# Okabe and Ito's colours: told apart with any kind of colour vision.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = ("", "o", "s", "^")  # tell the series apart that share a colour, when there are more than colours
_COLUMNS = 3
_LONGEST_KEY = 40
_WIDTH, _ROW_HEIGHT = 10.5, 2.75  # inches; at a README's width (about 830 pixels) the smallest text has 9 pixels
_DPI = 150
_LARGEST = 307.0
"""Power of ten to which an axis goes at most: just below the largest number that there is."""


def draw_curves(runs: Sequence[Path], output: Path) -> None:
    """Draw the figure of runs into a file; several runs share each panel, one colour a run.

    Args:
        runs: run folders, or metrics.jsonl files.
        output: the picture; its suffix (.png, .pdf, .svg) is the format.

    Raises:
        UserError: a run has no metrics, or the picture cannot be written.
    """
    write_figure(draw_figure(read_series(runs, {})), output)


def write_figure(figure: Figure, output: Path) -> None:
    """Write a figure into a file, whose folder is made if need be; PNG if the file has no suffix.

    Raises:
        UserError: the picture cannot be written, or the suffix is no format.
    """
    try:
        with whole_file(output) as partial:
            figure.savefig(partial, dpi=_DPI, format=output.suffix[1:] or "png")
    except ValueError as error:  # an unknown suffix; matplotlib lists the known ones
        raise UserError(f"{one_line(output)}: {one_line(error)}") from error


def figure_png(figure: Figure) -> bytes:
    """A figure as the content of a PNG file."""
    content = BytesIO()
    figure.savefig(content, dpi=_DPI, format="png")
    return content.getvalue()


def draw_figure(series: Sequence[Series], smooth: int | None = None) -> Figure:
    """The figure: a panel a quantity, a colour a series; a group's runs as their mean in a band from lowest to highest.

    Args:
        series: see `read_series`.
        smooth: points in the moving mean; 1 for none; None for a fifteenth of the points if there are many.

    Raises:
        UserError: none of the quantities was recorded.
    """
    from matplotlib.figure import Figure  # a figure of its own: no display, no global state
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    panels, missing = panels_of(series)
    if not panels:
        raise UserError(f"{one_line(series[0].folders[0])}: its metrics have none of the quantities that are drawn")
    rows = -(-len(panels) // _COLUMNS)
    size = (_WIDTH, _ROW_HEIGHT * rows + 0.6)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    cells = figure.subplots(rows, _COLUMNS, squeeze=False, sharex=True).flatten()
    windows = [_draw_panel(axes, panel, series, smooth) for axes, panel in zip(cells, panels, strict=False)]
    for axes in cells[max(0, len(panels) - _COLUMNS) : len(panels)]:  # the lowest of each column
        axes.set_xlabel("step", fontsize=9)
        axes.tick_params(labelbottom=True)
    for axes in cells[len(panels) :]:
        axes.set_axis_off()
    if len(series) == 1:
        figure.suptitle(short(series[0].name), fontsize=12, parse_math=False)
    else:
        _draw_names(figure, series)
    if notes := _notes(series, missing, max(windows)):
        figure.supxlabel(notes, fontsize=8, color="0.35", parse_math=False)
    return figure


def short(text: object, length: int = 48) -> str:
    """A name for a place in a line, its middle left out if it is longer than `length`."""
    name = one_line(text)
    return name if len(name) <= length else f"{name[: length // 2 - 1]}…{name[-(length // 2) :]}"


def _notes(series: Sequence[Series], missing: Sequence[str], window: int) -> str:
    notes = []
    if any(len(one.runs) > 1 for one in series):
        notes.append("bands: from the lowest to the highest run of a group; lines: the mean")
    if window > 1:
        bold = f"moving mean over up to {window} points"
        notes.append(bold if any(len(one.runs) > 1 for one in series) else f"thin lines: every step; thick: {bold}")
    if missing:
        notes.append(f"not recorded: {', '.join(missing)}")
    return "\n".join(notes)


def _draw_names(figure: Figure, series: Sequence[Series]) -> None:
    from matplotlib.lines import Line2D

    names = [short(one.name) + (f" ({len(one.runs)} runs)" if len(one.runs) > 1 else "") for one in series]
    handles = [
        Line2D([], [], color=_color(number), marker=_marker(number), linewidth=2, label=f"{number}")
        for number in range(len(series))
    ]
    columns = max(1, min(len(names), 126 // (max(map(len, names)) + 7)))
    legend = figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False, fontsize=10)
    _name(legend, names)


def _name(legend: Legend, names: Sequence[str]) -> None:
    """Write names into a legend that was made with others: they may have dollar signs, or begin with an underscore."""
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]


def _marker(number: int) -> str:
    return _MARKERS[number // len(COLORS) % len(_MARKERS)]


def _draw_panel(axes: Axes, panel: Panel, series: Sequence[Series], smooth: int | None) -> int:
    """Draw all of a panel; returns the widest moving mean in it, in points."""
    axes.set_title(panel.title, fontsize=10.5)
    axes.set_ylabel(panel.unit, fontsize=9)
    axes.tick_params(labelsize=8.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    if panel.guide is not None:
        axes.axhline(panel.guide, color="0.6", linewidth=0.8, zorder=1)
    window, positive = 1, False
    for line in panel.lines:
        for number, (one, metric) in enumerate(zip(series, line.metrics, strict=True)):
            if metric is not None:
                points = curve(one, metric, 1 if line.sparse else smooth)
                _draw_line(axes, points, line, number, banded=len(one.runs) > 1)
                window = max(window, points.window)
                positive |= bool((points.mean > 0).any())
    if panel.log and positive:
        axes.set_yscale("log")
    _finish_axes(axes, panel, _legend(panel, _color(0) if len(series) == 1 else "0.3"))
    return window


def _draw_line(axes: Axes, points: Curve, line: Line, number: int, *, banded: bool) -> None:
    color, marker = _color(number), _marker(number)
    every = max(1, len(points) // 8) if marker else None
    if line.sparse:
        marker, every = marker or "o", None
    elif len(points) == 1:
        marker = marker or "."
    if banded:
        axes.fill_between(points.steps, points.low, points.high, color=color, alpha=0.18, linewidth=0)
    elif points.window > 1:
        axes.plot(points.steps, points.raw, color=color, linewidth=0.7, alpha=0.25)
    axes.plot(
        points.steps,
        points.mean,
        color=color,
        linestyle=line.style,
        linewidth=1.6,
        marker=marker,
        markersize=4.5,
        markevery=every,
        markeredgecolor="white",
        markeredgewidth=0.5,
        clip_on=bool(points.mean.any()),
    )


def _legend(panel: Panel, color: str) -> list[Line2D]:
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
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if panel.percent:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}%"))
    low, high = axes.get_ylim()
    room = 0.12 * len(keys)  # above the lines, for the keys
    if axes.get_yscale() == "log":
        top = math.log10(high) + room * (math.log10(high) - math.log10(low))
        axes.set_ylim(low, max(high, 10 ** min(top, _LARGEST)))
    else:
        axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
        if panel.from_zero and axes.dataLim.ymin >= 0:
            low, high = 0.0, high if axes.dataLim.ymax > 0 else 0.01 if panel.percent else 1.0
        axes.set_ylim(low, high + room * (high - low))
    if keys:
        legend = axes.legend(
            handles=keys, fontsize=8, frameon=False, loc="upper left", handlelength=2.4, labelspacing=0.3, borderpad=0.1
        )
        _name(legend, [short(line.label, _LONGEST_KEY) for line in panel.lines if line.label])
