"""Which alarms the runs of a picture raised, in words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aspo_megatron.foreign_text import one_line
from aspo_megatron.metrics.alarms import Raised, alarms_of_run
from aspo_megatron.plots.panels import Panel
from aspo_megatron.plots.series import Series

_SHOWN_BY = {
    "approx_kl": ("response_ratio/pos", "ratio/pos"),
    "clip/fraction": ("clip/pos_high", "clip/neg_low"),
    "groups/all_agree": ("reward/mean",),
    "repetition/mean": ("repetition/mean", "repetition"),
    "response_tokens/cut": ("response_tokens/mean",),
    "reward/failed": ("reward/mean",),
}
"""Metrics of alarms that have no panel of their own, or another name there: those in whose panels the mark is."""

_HELDOUT = re.compile(r"eval/avg@\d+")


@dataclass(frozen=True)
class Told:
    """An alarm of a run. `number`: its series; `run`: a name for it in a line, empty where there is one run alone."""

    number: int
    run: str
    raised: Raised

    @property
    def where(self) -> str:
        """E.g. `step 12`, with the run's name if there are several."""
        return f"{self.run}, step {self.raised.step}" if self.run else f"step {self.raised.step}"


def told_of(series: Sequence[Series]) -> list[Told]:
    """What the runs raised, each of a run's alarms once, by series, run and step; nothing of one with `log.alarms` off.

    Args:
        series: see `read_series`.
    """
    alone = len(series) == 1 and len(series[0].runs) == 1
    found = []
    for number, one in enumerate(series):
        for folder, run in zip(one.folders, one.runs, strict=True):
            name = one.name if len(one.runs) == 1 else f"{one.name} ({folder.name})"
            found += [Told(number, "" if alone else one_line(name), raised) for raised in alarms_of_run(folder, run)]
    return found


def in_panel(told: Sequence[Told], panel: Panel) -> list[Told]:
    """Those whose metric a panel shows."""
    metrics = {metric for line in panel.lines for metric in line.metrics if metric is not None}
    return [one for one in told if _is_shown(one.raised.metric, metrics)]


def _is_shown(metric: str, metrics: set[str]) -> bool:
    if metric == "eval/avg@K":
        return any(_HELDOUT.fullmatch(name) for name in metrics)
    return not metrics.isdisjoint(_SHOWN_BY.get(metric, (metric,)))


def by_run(told: Sequence[Told]) -> list[str]:
    """A line for each run: its alarms with their steps, by step."""
    lines: dict[tuple[int, str], list[str]] = {}
    for one in told:
        lines.setdefault((one.number, one.run), []).append(f"{one.raised.name} (step {one.raised.step})")
    return [f"{run}: {', '.join(names)}" if run else ", ".join(names) for (_, run), names in lines.items()]
