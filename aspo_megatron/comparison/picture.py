"""The pictures of a comparison: paired differences with their intervals, and weights of tokens by probability."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from aspo_megatron.comparison.sentences import Finding, titled
from aspo_megatron.comparison.token_weights import BINS, SIGNS, TokenWeights, over_runs
from aspo_megatron.plots.panel_drawing import set_names, short
from aspo_megatron.plots.series import FloatArray
from aspo_megatron.plots.styles import run_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_WIDTH = 10.5  # inches, as the figure of curves
_NAME_LENGTH = 28
_TITLE_LENGTH = 60
_ROOM = 1.6  # inches beside the rows of a forest
_ROW = 0.38
_BESIDE = 0.07  # of the distance of bins
_MOST_ON_A_LINEAR_AXIS = 8.0


def draw_differences(found: Sequence[Finding], names: Sequence[str], baseline: str) -> Figure:
    """A panel for each quantity, a row for each group: its mean difference from the baseline, and the 95 % interval.

    Filled marks are differences that are claimed.

    Args:
        found: one or more.
        names: of all groups, whose numbers are their colours.
        baseline: one of them.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, _ROOM + _ROW * len(names)), layout="constrained")
    cells = figure.subplots(1, len(found), squeeze=False, sharey=True).flatten()
    for axes, finding in zip(cells, found, strict=True):
        _draw_forest(axes, finding, names)
        unit = finding.quantity.unit.strip() or "difference"
        axes.set_xlabel(f"less {short(baseline, _NAME_LENGTH)}, {unit}", fontsize=9, parse_math=False)
    figure.supxlabel(
        "lines: 95 % intervals of the mean paired difference; filled: claimed, hollow: not told apart",
        fontsize=8,
        color="0.35",
    )
    return figure


def _draw_forest(axes: Axes, finding: Finding, names: Sequence[str]) -> None:
    scale = 100.0 if finding.quantity.is_share else 1.0
    axes.axvline(0.0, color="0.5", linewidth=0.9, zorder=1)
    for row, difference in enumerate(finding.differences):
        style, interval = run_style(names.index(difference.group)), difference.interval
        if interval.low is not None and interval.high is not None:
            ends = [scale * interval.low, scale * interval.high]
            axes.plot(ends, [row, row], color=style.color, linewidth=2.0, solid_capstyle="butt")
        face = style.color if difference.claim else "white"
        mark = {"color": style.color, "markerfacecolor": face, "markeredgewidth": 1.5, "markersize": 7.0}
        axes.plot([scale * interval.mean], [row], linestyle="", marker="o", zorder=3, **mark)  # type: ignore[arg-type]
    axes.set_yticks(range(len(finding.differences)), [short(one.group, _NAME_LENGTH) for one in finding.differences])
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.set_ylim(len(finding.differences) - 0.5, -0.5)
    axes.set_title(short(titled(finding.quantity.name), _TITLE_LENGTH), fontsize=10.5)
    axes.tick_params(labelsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


def draw_token_weights(weights: TokenWeights, names: Sequence[str]) -> Figure:
    """Above the mean weight, below the share of dropped tokens; on the left tokens with A > 0, on the right A < 0.

    A line a group: the mean over its runs, in a band from the lowest to the highest.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.ticker import PercentFormatter

    figure = Figure(figsize=(_WIDTH, 6.4), layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08))
    cells = figure.subplots(2, len(SIGNS), sharex=True, sharey="row")
    for column, sign in enumerate(SIGNS):
        upper, lower = cells[0, column], cells[1, column]
        for number, name in enumerate(names):
            of_group = weights.groups[name]
            _draw_bins(upper, over_runs(of_group.weight[:, column]), number, len(names))
            _draw_bins(lower, over_runs(of_group.dropped[:, column]), number, len(names))
        upper.set_title(f"Tokens with {sign}", fontsize=10.5)
        upper.axhline(1.0, color="0.6", linewidth=0.8, zorder=1)
        lower.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        lower.set_xticks(range(len(BINS)), BINS)
        lower.set_xlabel("probability when it was generated", fontsize=9)
        for axes in (upper, lower):
            axes.tick_params(labelsize=8.5)
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="0.9", linewidth=0.8)
    cells[0, 0].set_ylabel("mean weight", fontsize=9)
    cells[1, 0].set_ylabel("weight 0 (dropped)", fontsize=9)
    if cells[0, 0].get_ylim()[1] > _MOST_ON_A_LINEAR_AXIS:
        cells[0, 0].set_yscale("symlog", linthresh=1.0)
    cells[0, 0].set_ylim(bottom=0.0)
    cells[1, 0].set_ylim(bottom=0.0)
    handles = [cells[0, 0].lines[index] for index in range(len(names))]
    legend = figure.legend(handles=handles, loc="outside upper center", ncols=4, frameon=False, fontsize=10)
    set_names(legend, [short(name, _NAME_LENGTH) for name in names])
    return figure


def _draw_bins(axes: Axes, values: FloatArray, number: int, groups: int) -> None:
    """A group's line, [3, bins] as `over_runs` gives it, with a gap at bins without tokens.

    Groups stand a little beside each other, so that lines which coincide are all seen.
    """
    style = run_style(number)
    places = np.arange(len(BINS)) + _BESIDE * (number - (groups - 1) / 2)
    mean, low, high = values
    axes.plot(
        places,
        mean,
        color=style.color,
        linestyle=style.dashes,
        linewidth=1.6,
        marker=style.marker or "o",
        markersize=4.5,
        markerfacecolor="white" if style.marker else style.color,
        label=f"{number}",
        clip_on=False,
    )
    axes.fill_between(places, low, high, color=style.color, alpha=0.15, linewidth=0)
