"""What is drawn of a run: the quantities of the paper's figure, their units, and which metrics they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from aspo_megatron.plots.series import Series

LineStyle = Literal["-", "--", ":", "-."]


@dataclass(frozen=True)
class Line:
    """A quantity of a panel. `metrics`: its metric for each series, None where a series did not record it.

    `label` tells the lines of a panel apart; empty for one that is alone. `sparse`: measured at few steps, so that
    the points are marked and the last one is the final figure.
    """

    label: str
    metrics: tuple[str | None, ...]
    style: LineStyle = "-"
    sparse: bool = False


@dataclass(frozen=True)
class Panel:
    """One picture of the figure. `unit` labels its axis; `guide` is a value that is worth a grey line.

    `more_is_better`: what is highest is best, whatever the run.
    """

    title: str
    unit: str
    lines: tuple[Line, ...]
    from_zero: bool = True
    percent: bool = False
    log: bool = False
    guide: float | None = None
    more_is_better: bool = False


@dataclass(frozen=True)
class _Quantity:
    """`names`: metrics that mean it, of which the first that any series recorded is drawn."""

    names: tuple[str, ...]
    label: str = ""
    style: LineStyle = "-"


@dataclass(frozen=True)
class _Plan:
    title: str
    unit: str
    quantities: tuple[_Quantity, ...]
    from_zero: bool = True
    percent: bool = False
    log: bool = False
    guide: float | None = None
    more_is_better: bool = False
    always: bool = True  # its absence is worth a word


_PLANS = (
    _Plan("Training reward", "mean reward", (_Quantity(("reward/mean",)),), from_zero=False, more_is_better=True),
    _Plan("Response length", "tokens", (_Quantity(("response_tokens/mean",)),), from_zero=False),
    _Plan("Entropy", "nats per token", (_Quantity(("entropy",)),)),
    _Plan("KL to the starting model", "nats per token", (_Quantity(("kl_ref",)),)),
    _Plan("Repetition rate", "repeated 4-grams", (_Quantity(("repetition/mean", "repetition")),), percent=True),
    _Plan(
        "Out of the clip range, A > 0",
        "tokens with A > 0",
        (
            _Quantity(("clip/pos_high",), "r above the range"),
            _Quantity(("clip/pos_low",), "r below the range", "--"),
        ),
        percent=True,
    ),
    _Plan(
        "Out of the clip range, A < 0",
        "tokens with A < 0",
        (
            _Quantity(("clip/neg_low",), "r below the range"),
            _Quantity(("clip/neg_high",), "r above the range", "--"),
        ),
        percent=True,
    ),
    _Plan("Weight capped (dual clip)", "tokens in the clip range", (_Quantity(("clip/dual",)),), percent=True),
    _Plan(
        "Mean ratio",
        "r = pi / pi_old",
        (
            _Quantity(("response_ratio/pos", "ratio/pos"), "A > 0"),
            _Quantity(("response_ratio/neg", "ratio/neg"), "A < 0", "--"),
        ),
        from_zero=False,
        guide=1.0,
    ),
    _Plan("Gradient norm", "L2 norm before clipping", (_Quantity(("grad_norm",)),)),
    _Plan(
        "Log-probs: trainer against engine",
        "|difference| in nats",
        (
            _Quantity(("engine_log_prob_diff/max",), "largest of the step", "--"),
            _Quantity(("engine_log_prob_diff/mean",), "mean"),
        ),
        log=True,
        always=False,
    ),
)

_STYLES: tuple[LineStyle, ...] = ("-", "--", ":", "-.")
_AVERAGE = re.compile(r"eval/(?:(?P<benchmark>.+)/)?avg@(?P<samples>\d+)")


def panels_of(series: Sequence[Series]) -> tuple[list[Panel], list[str]]:
    """The panels that there is something to draw in, and the titles of those that nothing was recorded for."""
    panels, missing = [], []
    heldout = _heldout(series)
    if heldout.lines:
        panels.append(heldout)
    else:
        missing.append(heldout.title)
    for plan in _PLANS:
        lines = tuple(line for quantity in plan.quantities if (line := _line(quantity, series)))
        if lines:
            shape = (plan.from_zero, plan.percent, plan.log, plan.guide, plan.more_is_better)
            panels.append(Panel(plan.title, plan.unit, lines, *shape))
        elif plan.always:
            missing.append(plan.title)
    return panels, missing


def _line(quantity: _Quantity, series: Sequence[Series]) -> Line | None:
    for name in quantity.names:
        metrics = tuple(name if one.has(name) else None for one in series)
        if any(metrics):
            label = quantity.label
            if "ratio/" in name:  # one kind of mean is not the other
                label += ", mean over " + ("tokens" if name.startswith("ratio/") else "responses")
            return Line(label, metrics, quantity.style)
    return None


def _heldout(series: Sequence[Series]) -> Panel:
    """avg@K: of each series the largest K, for avg@K estimates one number whatever K is. A line a benchmark."""
    found: dict[str, dict[int, int]] = {}  # benchmark -> index of a series -> largest K
    for index, one in enumerate(series):
        for name in _recorded(one):
            if (match := _AVERAGE.fullmatch(name)) and one.has(name):
                largest = found.setdefault(match["benchmark"] or "", {})
                largest[index] = max(largest.get(index, 0), int(match["samples"]))
    lines = []
    for number, (benchmark, largest) in enumerate(sorted(found.items())):
        prefix = f"eval/{benchmark}/" if benchmark else "eval/"
        metrics = tuple(f"{prefix}avg@{largest[i]}" if i in largest else None for i in range(len(series)))
        label = f"{benchmark} avg@{'/'.join(str(k) for k in sorted(set(largest.values())))}".strip()
        lines.append(Line(label, metrics, _STYLES[number % len(_STYLES)], sparse=True))
    return Panel("Held-out accuracy", "right answers", tuple(lines), from_zero=False, percent=True, more_is_better=True)


def _recorded(series: Series) -> Iterable[str]:
    """All metric names in it, in order."""
    return dict.fromkeys(name for run in series.runs for record in run for name in record)
