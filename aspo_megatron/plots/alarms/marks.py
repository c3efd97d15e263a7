"""Draws the alarms of runs into panels, and says below a figure which ones they are."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from aspo_megatron.plots.alarms.told import Told, by_run, in_panel
from aspo_megatron.plots.panels import Panel
from aspo_megatron.plots.styles import run_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOR = "#c00020"
_SEEN_ONE_BY_ONE = 3
"""Runs below a figure, which has little room; the page and the text have them all."""


def draw_marks(axes: Axes, panel: Panel, told: Sequence[Told], *, several: bool) -> None:
    """A triangle at the top of a panel, and a dotted line, where an alarm of its metrics was raised first.

    To be called when all else is drawn: the ends of the axes stay as they are.

    Args:
        axes: of the panel.
        panel: which.
        told: alarms of all runs.
        several: there are several series; the line has the colour of its own.
    """
    ends = axes.get_xlim(), axes.get_ylim()
    for one in in_panel(told, panel):
        color = run_style(one.number).color if several else COLOR
        step = one.raised.step
        axes.axvline(step, color=color, linestyle=":", linewidth=1.0, zorder=1.5, gid="alarm line")
        axes.plot(
            [step],
            [1.0],
            transform=axes.get_xaxis_transform(),
            linestyle="",
            marker="v",
            markersize=7.0,
            markerfacecolor=COLOR,
            markeredgecolor=color,
            markeredgewidth=1.2,
            clip_on=False,
            zorder=4,
            gid="alarm",
        )
    axes.set_xlim(ends[0])
    axes.set_ylim(ends[1])


def alarm_notes(told: Sequence[Told], width: int = 150) -> list[str]:
    """Lines of at most `width` characters for below a figure; none without alarms."""
    if not told:
        return []
    runs = by_run(told)
    more = f"; and in {len(runs) - _SEEN_ONE_BY_ONE} more runs" if len(runs) > _SEEN_ONE_BY_ONE else ""
    text = f"red triangles: alarms, which `aspo plot --text` explains: {'; '.join(runs[:_SEEN_ONE_BY_ONE])}{more}"
    return textwrap.wrap(text, width, break_on_hyphens=False)
