"""Draws the curves of one or several runs from their metrics.jsonl."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from aspo_megatron.errors import UserError
from aspo_megatron.metrics.record import METRICS_FILE, read_metrics

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.axes import Axes

    Curve = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]

# Okabe and Ito's colours: told apart with any kind of colour vision.
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES: tuple[Literal["-", "--", ":"], ...] = ("-", "--", ":")
_SMOOTH_FROM = 60  # steps; with more, a line is drawn faint and its moving mean on top


@dataclass(frozen=True)
class _Panel:
    """`lines`: metric name -> what the legend calls it; one line style each, one colour a run."""

    title: str
    unit: str
    lines: Mapping[str, str]
    from_zero: bool = True
    percent: bool = False


_PANELS = (
    _Panel("Reward and held-out accuracy", "reward, accuracy", {"reward/mean": "reward (training)"}, from_zero=False),
    _Panel("Entropy", "nats per token", {"entropy": ""}),
    _Panel(
        "Clip ratios",
        "share of tokens",
        {
            "clip/pos_high": "masked, A > 0, r too high",
            "clip/neg_low": "masked, A < 0, r too low",
            "clip/dual": "weight capped (dual clip)",
        },
        percent=True,
    ),
    _Panel("Response length", "tokens", {"response_tokens/mean": ""}, from_zero=False),
    _Panel("KL to the starting model", "nats per token", {"kl_ref": ""}),
    _Panel("Gradient norm", "L2 norm before clipping", {"grad_norm": ""}),
)


def draw_curves(runs: Sequence[Path], output: Path) -> None:
    """Draw reward, entropy, clip ratios, response length, KL and gradient norm over the steps.

    Several runs share each panel, one colour a run. A metric that no run has leaves its panel with "not recorded".

    Args:
        runs: run folders, or metrics.jsonl files.
        output: the picture; its suffix (.png, .pdf, .svg) is the format.

    Raises:
        UserError: a run has no metrics, or the picture cannot be written.
    """
    from matplotlib.figure import Figure  # a figure of its own: no display, no global state
    from matplotlib.layout_engine import ConstrainedLayoutEngine
    from matplotlib.lines import Line2D

    names, records = _run_names(runs), [_records(run) for run in runs]
    figure = Figure(figsize=(12, 6.4), layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08))
    for axes, panel in zip(figure.subplots(2, 3).flat, _PANELS, strict=True):
        _draw_panel(axes, panel, records)
    if any(len(run) >= _SMOOTH_FROM for run in records):
        figure.supxlabel("thin lines: every step; thick lines: their moving mean", fontsize=8, color="0.4")
    figure.align_ylabels()
    if len(runs) == 1:
        figure.suptitle(names[0], fontsize=12)
    else:
        handles = [Line2D([], [], color=_color(run), linewidth=2, label=name) for run, name in enumerate(names)]
        figure.legend(handles=handles, loc="outside upper center", ncols=min(4, len(names)), frameon=False)
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(output, dpi=150)
    except OSError as error:
        raise UserError(f"{output}: cannot be written: {error.strerror or error}") from error
    except ValueError as error:  # an unknown suffix; matplotlib lists the known ones
        raise UserError(f"{output}: {error}") from error


def _records(run: Path) -> list[dict[str, float]]:
    path = run if run.is_file() else run / METRICS_FILE
    records = read_metrics(path)
    if not records:
        raise UserError(f"{path}: no step is recorded yet, so there is nothing to draw")
    return records


def _run_names(runs: Sequence[Path]) -> list[str]:
    """Short names of the runs: the folder, and as much of the path before it as tells them apart."""
    if not runs:
        raise UserError("no run given to draw; name a run folder")
    folders = [(run.parent if run.is_file() else run).absolute() for run in runs]
    for depth in range(1, max(len(folder.parts) for folder in folders)):
        names = ["/".join(folder.parts[1:][-depth:]) for folder in folders]
        if len(set(names)) == len(set(folders)):
            break
    return names


def _color(run: int) -> str:
    return _COLORS[run % len(_COLORS)]


def _curve(records: Sequence[Mapping[str, float]], metric: str) -> Curve:
    """Steps and values, both [points], of a metric where it was recorded and is finite."""
    points = [(record["step"], record[metric]) for record in records if np.isfinite(record.get(metric, np.nan))]
    array = np.array(points, dtype=np.float64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _draw_panel(axes: Axes, panel: _Panel, records: Sequence[Sequence[Mapping[str, float]]]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    axes.set_title(panel.title, fontsize=11)
    axes.set_xlabel("step")
    axes.set_ylabel(panel.unit)
    axes.spines[["top", "right"]].set_visible(False)
    color = _color(0) if len(records) == 1 else "0.3"  # of the legend: with several runs, colours are runs
    legend: list[Line2D] = []
    for (metric, label), style in zip(panel.lines.items(), _STYLES, strict=False):
        curves = [_curve(run, metric) for run in records]
        for number, curve in enumerate(curves):
            _draw_line(axes, curve, _color(number), style)
        if label and any(len(steps) for steps, _ in curves):
            legend.append(Line2D([], [], color=color, linestyle=style, label=label))
    if "reward/mean" in panel.lines:
        ks = _draw_heldout(axes, records)
        label = f"held-out avg@{'/'.join(str(k) for k in ks)}"
        if ks:
            legend.append(Line2D([], [], color=color, linestyle="--", lw=1, marker="o", markersize=5, label=label))
    if not axes.lines:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center", color="0.5")
        return
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))
    if panel.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
    low, high = axes.get_ylim()
    if panel.from_zero and axes.dataLim.ymin >= 0:
        low = 0.0
    room = 0.11 * len(legend)  # above the lines, for the legend
    axes.set_ylim(low, high + room * (high - low))
    if legend:
        axes.legend(handles=legend, fontsize=8, frameon=False, loc="upper left", handlelength=3)


def _draw_line(axes: Axes, curve: Curve, color: str, style: str) -> None:
    steps, values = curve
    if not len(steps):
        return
    marker = "." if len(steps) == 1 else ""
    if len(steps) < _SMOOTH_FROM:
        axes.plot(steps, values, color=color, linestyle=style, marker=marker, linewidth=1.6)
        return
    axes.plot(steps, values, color=color, linewidth=0.7, alpha=0.25)
    axes.plot(steps, _moving_mean(values, len(values) // 30), color=color, linestyle=style, linewidth=1.8)


def _moving_mean(values: npt.NDArray[np.float64], reach: int) -> npt.NDArray[np.float64]:
    """Mean over the values up to `reach` before and after each, [points]; fewer at the ends, never padding."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    start, stop = np.maximum(index - reach, 0), np.minimum(index + reach + 1, len(values))
    means: npt.NDArray[np.float64] = (sums[stop] - sums[start]) / (stop - start)
    return means


def _draw_heldout(axes: Axes, records: Sequence[Sequence[Mapping[str, float]]]) -> list[int]:
    """Draw eval/avg@K as points, of the largest K of each run; returns the K drawn."""
    drawn: set[int] = set()
    for number, run in enumerate(records):
        found = {int(match[1]) for record in run for name in record if (match := re.fullmatch(r"eval/avg@(\d+)", name))}
        if found:
            steps, values = _curve(run, f"eval/avg@{max(found)}")
            axes.plot(steps, values, "o--", color=_color(number), linewidth=1, markersize=5, markeredgecolor="white")
            drawn.add(max(found))
    return sorted(drawn)
