"""Draws the figure of one or several runs: the quantities that the ASPO paper plots, over the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from aspo_megatron.errors import UserError
from aspo_megatron.files import whole_file
from aspo_megatron.foreign_text import one_line
from aspo_megatron.plots.alarms.marks import alarm_notes, draw_marks
from aspo_megatron.plots.alarms.told import Told, told_of
from aspo_megatron.plots.panel_drawing import draw_panel, place_single_step, set_names, short
from aspo_megatron.plots.panels import Panel, panels_of
from aspo_megatron.plots.series import Series, read_series
from aspo_megatron.plots.styles import run_style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 3
_WIDTH, _ROW_HEIGHT = 10.5, 2.75  # inches; at a README's width (about 830 pixels) the smallest text has 9 pixels
_DPI = 150
_ALONE = (4.2, 2.9)
"""Inches, of a panel by itself; a page shows it about 350 pixels wide, and its smallest text has 9 of them."""


def draw_curves(runs: Sequence[Path], output: Path) -> None:
    """Draw the figure of runs into a file; several runs share each panel, one colour a run.

    Args:
        runs: run folders, or metrics.jsonl files.
        output: the picture; its suffix (.png, .pdf, .svg) is the format.

    Raises:
        UserError: a run has no metrics, or the picture cannot be written.
    """
    write_figure(draw_figure(read_series(runs, {})), output)


def write_figure(figure: Figure, output: Path, dpi: int = _DPI) -> None:
    """Write a figure into a file, whose folder is made if need be; PNG if the file has no suffix.

    Raises:
        UserError: the picture cannot be written, or the suffix is no format.
    """
    try:
        with whole_file(output) as partial:
            figure.savefig(partial, dpi=dpi, format=output.suffix[1:] or "png")
    except ValueError as error:  # an unknown suffix; matplotlib lists the known ones
        raise UserError(f"{one_line(output)}: {one_line(error)}") from error


def _png(figure: Figure, dpi: int) -> bytes:
    content = BytesIO()
    figure.savefig(content, dpi=dpi, format="png")
    return content.getvalue()


@dataclass(frozen=True)
class Pictures:
    """Each panel by itself, for a page that arranges them: its title, and the content of a PNG file; and the notes.

    `told`: the alarms that are marked in them.
    """

    panels: tuple[tuple[str, bytes], ...]
    notes: tuple[str, ...]
    told: tuple[Told, ...] = ()


def draw_pictures(series: Sequence[Series], smooth: int | None = None) -> Pictures:
    """The panels of the figure one by one, without the names of the series.

    Args:
        series: see `read_series`.
        smooth: as in `draw_figure`.

    Raises:
        UserError: none of the quantities was recorded.
    """
    from matplotlib.figure import Figure

    panels, missing = _some_panels(series)
    told, several = told_of(series), len(series) > 1
    drawn, windows = [], []
    for panel in panels:
        figure = Figure(figsize=_ALONE, layout="constrained")
        axes = figure.subplots()
        windows.append(draw_panel(axes, panel, series, smooth))
        place_single_step([axes])
        draw_marks(axes, panel, told, several=several)
        axes.set_xlabel("step", fontsize=9)
        drawn.append((panel.title, _png(figure, 180)))
    return Pictures(tuple(drawn), tuple(_notes(series, missing, max(windows))), tuple(told))


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

    panels, missing = _some_panels(series)
    rows = -(-len(panels) // _COLUMNS)
    size = (_WIDTH, _ROW_HEIGHT * rows + 0.6)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    cells = figure.subplots(rows, _COLUMNS, squeeze=False, sharex=True).flatten()
    windows = [draw_panel(axes, panel, series, smooth) for axes, panel in zip(cells, panels, strict=False)]
    place_single_step(list(cells[: len(panels)]))
    told = told_of(series)
    for axes, panel in zip(cells, panels, strict=False):
        draw_marks(axes, panel, told, several=len(series) > 1)
    for axes in cells[max(0, len(panels) - _COLUMNS) : len(panels)]:  # the lowest of each column
        axes.set_xlabel("step", fontsize=9)
        axes.tick_params(labelbottom=True)
    for axes in cells[len(panels) :]:
        axes.set_axis_off()
    if len(series) == 1:
        figure.suptitle(short(series[0].name), fontsize=12, parse_math=False)
    else:
        _draw_names(figure, series)
    if notes := [*_notes(series, missing, max(windows)), *alarm_notes(told)]:
        figure.supxlabel("\n".join(notes), fontsize=8, color="0.35", parse_math=False)
    return figure


def _some_panels(series: Sequence[Series]) -> tuple[list[Panel], list[str]]:
    panels, missing = panels_of(series)
    if not panels:
        raise UserError(f"{one_line(series[0].folders[0])}: its metrics have none of the quantities that are drawn")
    return panels, missing


def _notes(series: Sequence[Series], missing: Sequence[str], window: int) -> list[str]:
    notes = []
    if any(len(one.runs) > 1 for one in series):
        notes.append("bands: from the lowest to the highest run of a group; lines: the mean")
    if window > 1:
        bold = f"moving mean over up to {window} points"
        notes.append(bold if any(len(one.runs) > 1 for one in series) else f"thin lines: every step; thick: {bold}")
    if missing:
        notes.append(f"not recorded: {', '.join(missing)}")
    return notes


def _draw_names(figure: Figure, series: Sequence[Series]) -> None:
    from matplotlib.lines import Line2D

    names = [short(one.name) + (f" ({len(one.runs)} runs)" if len(one.runs) > 1 else "") for one in series]
    handles = []
    for number in range(len(series)):
        style = run_style(number)
        handles.append(
            Line2D(
                [],
                [],
                color=style.color,
                linestyle=style.dashes,  # type: ignore[arg-type]
                linewidth=2,
                marker=style.marker,
                markerfacecolor="white",
                label=f"{number}",
            )
        )
    columns = max(1, min(len(names), 140 // (max(map(len, names)) + 12)))
    legend = figure.legend(
        handles=handles, loc="outside upper center", ncols=columns, frameon=False, fontsize=10, handlelength=2.8
    )
    set_names(legend, names)
