"""The numbers beside the pictures: where every curve ends, and which settings of the runs differ."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aspo_megatron.metrics.saved_settings import saved_settings
from aspo_megatron.plots.panels import panels_of
from aspo_megatron.plots.series import Series, final

ABSENT = "-"


@dataclass(frozen=True)
class SeriesTable:
    """`columns` name the cells of each row; a row is its label and the cells.

    `best` has for each row the indices of its best cells, none where no value is better than another; empty for none.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    best: tuple[tuple[int, ...], ...] = ()


def final_figures(series: Sequence[Series]) -> SeriesTable:
    """A row for every line of the figure: see `final`; the last value of what is measured at few steps.

    Best are the highest accuracy and reward. Of other quantities it depends on the run what is good.
    """
    rows = [("steps", tuple("/".join(dict.fromkeys(str(step) for step in one.last_steps)) for one in series))]
    best: list[tuple[int, ...]] = [()]
    for panel in panels_of(series)[0]:
        for line in panel.lines:
            cells: list[str] = []
            ends: list[float | None] = []
            for one, metric in zip(series, line.metrics, strict=True):
                end = None if metric is None else final(one, metric, last_only=line.sparse)
                ends.append(None if end is None else end.value)
                if end is None:
                    cells.append(ABSENT)
                else:
                    spread = "" if end.spread is None else f" ± {deviation(end.spread, percent=panel.percent)}"
                    cells.append(number(end.value, percent=panel.percent) + spread)
            rows.append((f"{panel.title}: {line.label}" if line.label else panel.title, tuple(cells)))
            best.append(_highest(ends) if panel.more_is_better else ())
    return SeriesTable(tuple(one.name for one in series), tuple(rows), tuple(best))


def _highest(values: Sequence[float | None]) -> tuple[int, ...]:
    """Where the highest is; nowhere if all are the same."""
    known = {value for value in values if value is not None}
    return tuple(i for i, value in enumerate(values) if value == max(known)) if len(known) > 1 else ()


def number(value: float, *, percent: bool = False) -> str:
    """A figure to four digits, or a share as per cent with one decimal (two digits if below one per cent)."""
    if percent:
        share = 100 * value
        return f"{share:.1f}%" if abs(share) >= 1 else f"{share:.2g}%"
    size = abs(value)
    return f"{value:.{3 - math.floor(math.log10(size))}f}" if 1e-3 <= size < 9999 else f"{value:.4g}"


def deviation(value: float, *, percent: bool = False) -> str:
    """A standard deviation, to two digits."""
    return f"{100 * value:.2g}%" if percent else f"{value:.2g}"


def config_differences(series: Sequence[Series]) -> SeriesTable:
    """The settings in which the runs differ, from their config.yaml; a group's different values side by side.

    `output_dir` is left out. A run that lacks a setting, or the whole file, differs in it from no other.

    Raises:
        UserError: a config.yaml is not YAML.
    """
    settings = [[run_settings(folder) for folder in one.folders] for one in series]
    known = [one for group in settings for one in group if one]
    rows = []
    for key in dict.fromkeys(key for one in known for key in one):
        if key != "output_dir" and len({one[key] for one in known if key in one}) > 1:
            cells = tuple(", ".join(dict.fromkeys(one.get(key, ABSENT) for one in group)) for group in settings)
            rows.append((key, cells))
    return SeriesTable(tuple(one.name for one in series), tuple(rows))


def run_settings(folder: Path) -> dict[str, str]:
    """The settings in a run's config.yaml: dotted key -> value as text; empty if there is no such file.

    Raises:
        UserError: it is not YAML, no configuration, or a link out of the folder.
    """
    flat = _flat(saved_settings(folder))
    return {key: value if isinstance(value, str) else _shown(value) for key, value in flat.items()}


def _shown(value: Any) -> str:
    try:
        return json.dumps(value, default=str)
    except TypeError:  # YAML has dates as keys, for one
        return str(value)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
