"""What is compared: a number for each run and quantity, from its metrics."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from aspo_megatron.comparison.runs import Comparison
from aspo_megatron.foreign_text import one_line
from aspo_megatron.metrics.damaged_lines import named
from aspo_megatron.plots.figures import number
from aspo_megatron.plots.series import FloatArray, Series, final

Records = Sequence[Mapping[str, float]]

_DIGITS = 12
_SCORE = re.compile(r"eval/(avg|pass)@(\d+)")


@dataclass(frozen=True)
class Quantity:
    """A number for each run.

    Attributes:
        name: what it is, as a part of a sentence.
        is_share: shown in per cent, and differences in percentage points.
        values: by group, [pairs], finite.
    """

    name: str
    is_share: bool
    values: Mapping[str, FloatArray]

    def shown(self, value: float) -> str:
        """A value, as text."""
        return number(_round(value), percent=self.is_share)

    def difference(self, value: float, *, signed: bool = True) -> str:
        """A difference, as text without its unit."""
        value = _round(value)
        sign = "+" if signed and value > 0 else ""
        return sign + number(value, percent=self.is_share).removesuffix("%")

    @property
    def unit(self) -> str:
        """Of differences, with a space before it; empty for a bare number."""
        return " points" if self.is_share else ""


def _round(value: float) -> float:
    """Without what sums leave of rounding, and without the sign of 0."""
    return round(value, _DIGITS) + 0.0


@dataclass(frozen=True)
class Quantities:
    """Those that can be compared, and in sentences why others cannot.

    `final` and `mean` are those of held-out accuracy; None where it was not recorded.
    """

    final: Quantity | None
    mean: Quantity | None
    others: tuple[Quantity, ...]
    left_out: tuple[str, ...]

    @property
    def every(self) -> tuple[Quantity, ...]:
        """All, in their order."""
        return (*(one for one in (self.final, self.mean) if one is not None), *self.others)


@dataclass(frozen=True)
class _Plan:
    """`metric` is what the quantity is made of, by `measure`, of a run's records without step 0."""

    name: str
    metric: str
    measure: Callable[[Records, str], float]
    is_share: bool = False


def measured(comparison: Comparison) -> Quantities:
    """All quantities of all runs. One with a value that is no number, or that a run lacks, is left out and named."""
    accuracy, passed = accuracy_metric(comparison.groups), _largest_k(comparison.groups, "pass")
    left_out: list[str] = []
    take = partial(_quantity, comparison=comparison, left_out=left_out)
    final_accuracy = mean_accuracy = None
    if accuracy is None:
        left_out.append("held-out accuracy: no run recorded eval/avg@K")
    else:
        name = f"final held-out accuracy ({accuracy.removeprefix('eval/')})"
        final_accuracy = take(_Plan(name, accuracy, _last, is_share=True))
        mean_accuracy = take(
            _Plan("mean held-out accuracy over all evaluations after the start", accuracy, _mean, is_share=True)
        )
    plans = [
        _Plan("reward in training, over the last tenth of the steps", "reward/mean", _tail),
        _Plan("entropy over the last tenth of the steps, nats per token", "entropy", _tail),
        _Plan("repetition over the last tenth of the steps", "repetition/mean", _tail, is_share=True),
        _Plan("spikes of the gradient norm, log10 of the largest over the median", "grad_norm", _spike),
    ]
    if passed is not None and passed > 1:  # pass@1 is the same number as avg@K
        plans.insert(0, _Plan(f"final pass@{passed}", f"eval/pass@{passed}", _last, is_share=True))
    others = [quantity for plan in plans if (quantity := take(plan))]
    return Quantities(final_accuracy, mean_accuracy, tuple(others), tuple(left_out))


def accuracy_metric(groups: Sequence[Series]) -> str | None:
    """The metric of held-out accuracy, `eval/avg@K` with the largest K in any run; None if none recorded it."""
    average = _largest_k(groups, "avg")
    return None if average is None else f"eval/avg@{average}"


def _largest_k(groups: Sequence[Series], what: str) -> int | None:
    """The largest K of `eval/avg@K` or `eval/pass@K` in any run."""
    names = {name for group in groups for run in group.runs for record in run for name in record}
    found = [int(match[2]) for name in names if (match := _SCORE.fullmatch(name)) and match[1] == what]
    return max(found, default=None)


def _quantity(plan: _Plan, *, comparison: Comparison, left_out: list[str]) -> Quantity | None:
    """The quantity; else None, and `left_out` gets the reason."""
    values: dict[str, FloatArray] = {}
    for group in comparison.groups:
        of_group = []
        for folder, records in zip(group.folders, group.runs, strict=True):
            reason = _unfit(records, plan)
            if reason:
                left_out.append(f"{plan.name}: {one_line(folder)} {reason}")
                return None
            of_group.append(plan.measure(_after_start(records), plan.metric))
        values[group.name] = np.array(of_group, dtype=np.float64)
    unfit = [name for name, row in values.items() if not np.isfinite(row).all()]
    if unfit:
        left_out.append(f"{plan.name}: not a number in {one_line(', '.join(unfit))}")
        return None
    return Quantity(plan.name, plan.is_share, values)


def _unfit(records: Records, plan: _Plan) -> str:
    """Why a run's metric cannot be compared; empty if it can."""
    known = {int(record["step"]): record[plan.metric] for record in _after_start(records) if plan.metric in record}
    if not known:
        return f"has no {plan.metric} after the start"
    odd = [step for step, value in known.items() if not np.isfinite(value)]
    if odd:
        return f"has no number as {plan.metric} at {named('step', odd)}"
    if plan.measure is _last and int(records[-1]["step"]) not in known:
        return f"has no {plan.metric} at its last step"
    return ""


def _after_start(records: Records) -> Records:
    """Without line 0, the evaluation before training."""
    return [record for record in records if record["step"] > 0]


def _values(records: Records, metric: str) -> FloatArray:
    return np.array([record[metric] for record in records if metric in record], dtype=np.float64)


def _last(records: Records, metric: str) -> float:
    return float(_values(records, metric)[-1])


def _mean(records: Records, metric: str) -> float:
    return float(_values(records, metric).mean())


def _tail(records: Records, metric: str) -> float:
    """The final figure of plots: the mean over the last tenth of the steps."""
    end = final(Series("", (), (records,)), metric)
    return np.nan if end is None else end.value


def _spike(records: Records, metric: str) -> float:
    """As a logarithm, for one spike may be hundreds of times another, and would be all that a mean shows."""
    values = _values(records, metric)
    low, high = float(np.median(values)), float(values.max())
    return math.log10(high / low) if low > 0 else np.nan
