"""avg@K and pass@k from right and wrong responses, with confidence intervals. Pure arithmetic."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

_QUANTILE = NormalDist().inv_cdf(0.975)  # of a 95 % interval


@dataclass(frozen=True)
class Estimate:
    """A mean over problems, 0 to 1, and its 95 % confidence interval (None where there is one problem or none)."""

    value: float
    low: float | None
    high: float | None

    def __str__(self) -> str:
        """E.g. `30.6%  (18.0% to 43.2%)`."""
        if self.low is None or self.high is None:
            return f"{self.value:.1%}"
        return f"{self.value:.1%}  ({self.low:.1%} to {self.high:.1%})"


def mean_estimate(values: Sequence[float]) -> Estimate:
    """The mean of one value (0 to 1) for each problem, with its interval.

    The normal approximation over problems: mean +- 1.96 s / sqrt(n), s with the divisor n - 1, cut off at 0 and 1. The
    problems are taken for a sample of all that could have been asked, and a problem's responses for one observation of
    it, so that more responses to the same problems narrow it only as far as they are what makes it wide (Miller, 2024,
    arXiv 2411.00640, equations 1 and 3). Where all values are 0, or all 1, that would say that nothing else can be; the
    interval is then the exact one of n equal outcomes (Clopper and Pearson), 0 to 1 - 0.025^(1/n) or its mirror image.
    """
    count = len(values)
    if count == 0:
        return Estimate(0.0, None, None)
    mean = sum(values) / count
    if count == 1:
        return Estimate(mean, None, None)
    if set(values) <= {0.0} or set(values) <= {1.0}:
        far = 1.0 - 0.025 ** (1 / count)
        return Estimate(mean, 0.0, far) if mean == 0.0 else Estimate(mean, 1.0 - far, 1.0)
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    half = _QUANTILE * math.sqrt(variance / count)
    return Estimate(mean, max(0.0, mean - half), min(1.0, mean + half))


def difference_estimate(ones: Sequence[float], others: Sequence[float]) -> Estimate:
    """The mean of ones - others, problem by problem, with its interval, -1 to 1.

    The problems being the same, what makes them easy or hard for both does not widen it: with the same normal
    approximation it is narrower than two intervals side by side suggest.
    """
    differences = [one - other for one, other in zip(ones, others, strict=True)]
    count = len(differences)
    mean = sum(differences) / count if count else 0.0
    if count < 2:
        return Estimate(mean, None, None)
    half = _QUANTILE * math.sqrt(sum((value - mean) ** 2 for value in differences) / (count - 1) / count)
    return Estimate(mean, mean - half, mean + half)


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """The unbiased estimate of pass@k from `correct` right ones of `samples`: 1 - C(n - c, k) / C(n, k).

    (Chen et al., 2021, arXiv 2107.03374, equation 1.)
    """
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


@dataclass(frozen=True)
class Scores:
    """What an evaluation says of a model.

    Attributes:
        samples: K, the responses to each problem.
        right: how many of them are right, for each problem.
        average: avg@K, the mean share of right responses.
        pass_at: pass@k by k, the mean estimate of the chance that one of k responses is right.
    """

    samples: int
    right: tuple[int, ...]
    average: Estimate
    pass_at: dict[int, Estimate]

    @classmethod
    def of(cls, right: Iterable[int], samples: int, pass_k: Iterable[int]) -> Scores:
        """From the number of right responses to each problem."""
        counts = tuple(right)
        return cls(
            samples,
            counts,
            mean_estimate([count / samples for count in counts]),
            {k: mean_estimate([pass_at_k(samples, count, k) for count in counts]) for k in pass_k},
        )

    @property
    def sampling_error(self) -> float | None:
        """Standard error of avg@K as an estimate for these very problems: what other responses to them would change.

        sqrt(sum of p (1 - p) / (K - 1)) / n, of n problems with a share p of right responses each: the variance of a
        mean of K draws, estimated from them. None with one response to each problem, or no problem.
        """
        if self.samples < 2 or not self.right:
            return None
        shares = [count / self.samples for count in self.right]
        return math.sqrt(sum(share * (1 - share) for share in shares) / (self.samples - 1)) / len(shares)

    def named(self) -> dict[str, Estimate]:
        """By name, e.g. `avg@4` and `pass@4`."""
        return {f"avg@{self.samples}": self.average} | {f"pass@{k}": value for k, value in self.pass_at.items()}
