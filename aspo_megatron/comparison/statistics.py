"""Means over seeds and paired differences: intervals, p-values, and what may be claimed. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from aspo_megatron.plots.series import FloatArray, is_flat

CONFIDENCE = 0.95
"""Of all intervals."""

SIGNIFICANCE = 0.05
"""The adjusted p-value up to which a difference may be claimed."""

MOST_ENUMERATED = 16
"""Pairs up to which all flips of signs are made; of more pairs, `_FLIPS` random ones."""

_FLIPS = 99_999
_FLIPS_AT_A_TIME = 10_000
_SEED = 0
_ROUNDING = 1e-9  # sums of the same numbers in another order differ by less, as a share of the numbers' sizes


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval; the ends are None where the values have no spread to take one from."""

    mean: float
    low: float | None
    high: float | None

    @property
    def excludes_zero(self) -> bool:
        """Whether all of the interval is on one side of 0."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)

    @property
    def farthest(self) -> float | None:
        """How far from 0 the interval goes, to either side."""
        return None if self.low is None or self.high is None else max(abs(self.low), abs(self.high))


@dataclass(frozen=True)
class Difference:
    """A group less the baseline, pair by pair.

    Attributes:
        group: which one.
        interval: of the mean difference.
        p: of the hypothesis that signs are arbitrary, see `sign_flip_p`.
        adjusted_p: the same for all groups that are compared with the baseline in one quantity, see `holm`.
        higher: pairs in which the group is higher.
        equal: pairs in which both are the same.
        pairs: of how many.
    """

    group: str
    interval: Interval
    p: float
    adjusted_p: float
    higher: int
    equal: int
    pairs: int

    @property
    def claim(self) -> Literal["higher", "lower"] | None:
        """What may be said of the group: the interval and the adjusted p-value both have to bear it."""
        if self.adjusted_p > SIGNIFICANCE or not self.interval.excludes_zero:
            return None
        return "higher" if self.interval.mean > 0 else "lower"


def mean_interval(values: FloatArray) -> Interval:
    """The mean with its interval by Student's t, mean +- t(0.975, n - 1) s / sqrt(n).

    Values that differ by rounding alone have a mean and no interval: no spread can be taken from them.

    Args:
        values: [pairs], finite, at least one.
    """
    mean = float(values.mean())
    if len(values) < 2 or is_flat(float(values.min()), float(values.max())):
        return Interval(mean, None, None)
    low, high = stats.t.interval(CONFIDENCE, len(values) - 1, loc=mean, scale=stats.sem(values))
    return Interval(mean, float(low), float(high))


def sign_flip_p(differences: FloatArray) -> float:
    """The two-sided p-value of a paired permutation test: were both alike, each difference might have either sign.

    It is the share of the 2^n ways to choose the signs whose sum is as far from 0 as that of the differences, or
    farther; so it is never below 2 / 2^n. Of more than `MOST_ENUMERATED` pairs random ways are drawn, always the same.

    Args:
        differences: [pairs], finite.
    """
    size = len(differences)
    if size > MOST_ENUMERATED:
        result = stats.permutation_test(
            (differences,),
            np.mean,
            permutation_type="samples",
            n_resamples=_FLIPS,
            batch=_FLIPS_AT_A_TIME,
            vectorized=True,
            rng=np.random.default_rng(_SEED),
        )
        return float(result.pvalue)
    flips = (np.arange(2**size)[:, None] >> np.arange(size)) & 1
    sums = np.abs((1.0 - 2.0 * flips) @ differences)
    least = abs(float(differences.sum())) - _ROUNDING * float(np.abs(differences).sum())
    return float(np.mean(sums >= least))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number (Holm, 1979, Scandinavian Journal of Statistics 6): in the same order.

    The smallest is multiplied by their number m, the next by m - 1, and so on; none is below one before it, or above 1.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda number: p_values[number])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def compare(values: Mapping[str, FloatArray], baseline: str) -> list[Difference]:
    """Each other group less the baseline.

    Args:
        values: of each group, [pairs], finite, in the same order of pairs.
        baseline: one of the groups.
    """
    differences = {name: _less(one, values[baseline]) for name, one in values.items() if name != baseline}
    p_values = [sign_flip_p(one) for one in differences.values()]
    return [
        Difference(name, mean_interval(one), p, adjusted, int((one > 0).sum()), int((one == 0).sum()), len(one))
        for (name, one), p, adjusted in zip(differences.items(), p_values, holm(p_values), strict=True)
    ]


def _less(ones: FloatArray, others: FloatArray) -> FloatArray:
    """The differences; 0 where both are the same but for rounding, such as means of the same numbers."""
    differences = ones - others
    return np.where(np.abs(differences) <= _ROUNDING * np.maximum(np.abs(ones), np.abs(others)), 0.0, differences)


def smallest_adjusted_p(pairs: int, comparisons: int) -> float:
    """What Holm's p-value is at least for the first of `comparisons`, however large and regular the difference."""
    return min(1.0, comparisons * 2.0 ** (1 - pairs))


def pairs_needed(comparisons: int) -> int:
    """With how many pairs a difference can be claimed at all."""
    return next(pairs for pairs in range(2, 64) if smallest_adjusted_p(pairs, comparisons) <= SIGNIFICANCE)
