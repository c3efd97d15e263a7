"""Intervals, p-values and claims: against scipy and numpy, by hand, and in simulations."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from aspo_megatron.comparison import statistics
from aspo_megatron.comparison.statistics import (
    SIGNIFICANCE,
    Difference,
    Interval,
    compare,
    holm,
    mean_interval,
    pairs_needed,
    sign_flip_p,
    smallest_adjusted_p,
)

ROOT = Path(__file__).parents[2]


def test_an_interval_is_that_of_a_paired_t_test() -> None:
    random = np.random.default_rng(1)
    for size in (2, 3, 10, 40):
        ones, others = random.normal(0.3, 1.0, size), random.normal(0.0, 1.0, size)
        expected = stats.ttest_rel(ones, others).confidence_interval(0.95)
        found = mean_interval(ones - others)
        assert found.mean == pytest.approx(ones.mean() - others.mean())
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_an_interval_by_hand() -> None:
    """1, 2, 3: mean 2, s = 1, t(0.975, 2) = 4.3027."""
    found = mean_interval(np.array([1.0, 2.0, 3.0]))
    assert (found.low, found.high) == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))
    assert found.excludes_zero is False
    assert found.farthest == found.high


@pytest.mark.parametrize("values", [[0.3], [0.0, 0.0, 0.0], [0.1, 0.1, 0.1, 0.1], [0.3, 0.1 + 0.2]])
def test_values_without_spread_have_no_interval(values: list[float]) -> None:
    """Rounding is no spread: it would make an interval of no width, which excludes 0."""
    found = mean_interval(np.array(values))
    assert (found.low, found.high, found.farthest, found.excludes_zero) == (None, None, None, False)


def brute_force(differences: np.ndarray) -> float:
    """With exact numbers, as the differences are whole ones."""
    sums = [
        abs(sum(sign * int(one) for sign, one in zip(signs, differences, strict=True)))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return sum(one >= abs(int(differences.sum())) for one in sums) / len(sums)


@pytest.mark.parametrize("size", range(3, 11))
def test_all_flips_of_signs_are_counted(size: int) -> None:
    random = np.random.default_rng(size)
    for _ in range(10):
        whole = random.integers(-5, 8, size)
        assert sign_flip_p(whole.astype(np.float64)) == brute_force(whole)
        # In tenths many sums are equal but for rounding.
        assert sign_flip_p(whole / 10) == brute_force(whole)
        assert sign_flip_p(-whole / 10) == brute_force(whole)


def test_a_p_value_by_hand() -> None:
    """3, 1, -1: as far from 0 as 3 are those choices whose sum is 3 or 5 or their negatives: 6 of 8."""
    assert sign_flip_p(np.array([3.0, 1.0, -1.0])) == 6 / 8
    assert sign_flip_p(np.array([3.0, 1.0, 1.0])) == 2 / 8
    assert sign_flip_p(np.zeros(5)) == 1.0


def test_of_many_pairs_random_flips_are_made_and_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(0)
    differences = random.normal(0.7, 1.0, 18)
    drawn = sign_flip_p(differences)
    assert drawn == sign_flip_p(differences)
    monkeypatch.setattr(statistics, "MOST_ENUMERATED", 18)
    exact = sign_flip_p(differences)
    assert drawn != exact
    assert drawn == pytest.approx(exact, abs=0.002)
    assert 0.01 < exact < 0.1


def test_holm_by_hand() -> None:
    """Holm's own kind of example: 0.01 * 4, 0.013 * 3, 0.03 * 2, 0.2 * 1, where 0.039 is raised to 0.04."""
    assert holm([0.03, 0.01, 0.2, 0.013]) == pytest.approx([0.06, 0.04, 0.2, 0.04])
    assert holm([0.5, 0.4]) == pytest.approx([0.8, 0.8])
    assert holm([0.9, 0.6, 0.7]) == [1.0, 1.0, 1.0]
    assert holm([0.02]) == [0.02]
    assert holm([]) == []


def test_groups_are_compared_pair_by_pair_and_adjusted_together() -> None:
    base = np.array([0.1, 0.5, 0.3, 0.9, 0.2, 0.4])
    wobble = np.array([0.01, -0.01, 0.02, 0.0, 0.01, -0.02])
    found = compare({"a": base + 0.1 + wobble, "base": base, "b": base + wobble}, "base")
    assert [one.group for one in found] == ["a", "b"]
    up, same = found
    assert up.interval.mean == pytest.approx(0.1 + wobble.mean())
    assert (up.p, up.adjusted_p) == (2 / 64, 4 / 64)
    assert (up.higher, up.equal, up.pairs) == (6, 0, 6)
    assert (same.higher, same.equal, same.pairs) == (3, 1, 6)
    assert up.claim is None  # two comparisons and six pairs cannot bear one
    (alone,) = compare({"a": base + 0.1 + wobble, "base": base}, "base")
    assert (alone.adjusted_p, alone.claim) == (2 / 64, "higher")
    (other,) = compare({"a": base + 0.1 + wobble, "base": base}, "a")
    assert other.interval.mean == pytest.approx(-alone.interval.mean)
    assert other.claim == "lower"


def test_rounding_is_no_difference() -> None:
    ones = np.array([0.1 + 0.2, 0.7, 0.5])
    (found,) = compare({"a": ones, "b": np.array([0.3, 0.7, 0.4])}, "b")
    assert (found.higher, found.equal) == (1, 2)


@pytest.mark.parametrize(
    ("interval", "adjusted_p", "claim"),
    [
        (Interval(0.1, 0.05, 0.15), 0.05, "higher"),
        (Interval(-0.1, -0.15, -0.05), 0.01, "lower"),
        (Interval(0.1, 0.05, 0.15), 0.051, None),  # the p-value does not bear it
        (Interval(0.1, -0.01, 0.21), 0.01, None),  # the interval does not
        (Interval(0.1, 0.0, 0.2), 0.01, None),
        (Interval(0.1, None, None), 0.01, None),
    ],
)
def test_a_claim_takes_the_interval_and_the_p_value(interval: Interval, adjusted_p: float, claim: str | None) -> None:
    assert Difference("a", interval, 0.01, adjusted_p, 8, 0, 8).claim == claim


def test_intervals_contain_the_true_mean_as_often_as_they_say() -> None:
    random = np.random.default_rng(2)
    inside = 0
    for values in random.normal(0.7, 2.0, (2000, 5)):
        found = mean_interval(values)
        assert found.low is not None
        assert found.high is not None
        inside += found.low <= 0.7 <= found.high
    assert 0.94 < inside / 2000 < 0.96


def test_without_a_difference_hardly_anything_is_claimed() -> None:
    """Of comparisons of groups of eight seeds that are alike, 5 % claim anything at all, but for chance.

    Without Holm's adjustment 20 of these 200 do that have three groups beside the baseline.
    """
    most = stats.binom.ppf(0.99, 200, SIGNIFICANCE)
    random = np.random.default_rng(3)
    claimed = {"one": 0, "several": 0}
    for _ in range(200):
        seeds = random.normal(0.5, 0.1, 8)  # what groups share
        groups = {name: seeds + random.normal(0.0, 0.02, 8) for name in ("base", "a", "b", "c")}
        claimed["several"] += any(one.claim for one in compare(groups, "base"))
        claimed["one"] += any(one.claim for one in compare({"base": groups["base"], "a": groups["a"]}, "base"))
    assert 0 < claimed["one"] <= most
    assert 0 < claimed["several"] <= most


def test_the_smallest_p_value_and_the_pairs_that_it_takes() -> None:
    for comparisons in (1, 2, 4, 12):
        pairs = pairs_needed(comparisons)
        base = np.linspace(0.1, 0.5, pairs)
        groups = {"base": base} | {f"g{number}": base + 0.3 + 0.1 * base**2 for number in range(comparisons)}
        assert compare(groups, "base")[0].adjusted_p == smallest_adjusted_p(pairs, comparisons) <= SIGNIFICANCE
        assert smallest_adjusted_p(pairs - 1, comparisons) > SIGNIFICANCE
    assert smallest_adjusted_p(2, 4) == 1.0


def test_the_page_says_how_many_seeds_it_takes() -> None:
    text = (ROOT / "docs" / "comparing.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\d+)(?: to (\d+))? \| (\d+) \|$", text, flags=re.MULTILINE)
    said = {n: int(seeds) for first, last, seeds in rows for n in range(int(first), int(last or first) + 1)}
    assert said == {number: pairs_needed(number) for number in range(1, 13)}
