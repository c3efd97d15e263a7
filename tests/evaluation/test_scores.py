"""avg@K, pass@k and their intervals: against counting subsets, worked examples and simulation; and over records."""

from __future__ import annotations

import itertools
import json
import math
import random
import statistics
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aspo_megatron.evaluation.evaluator import Evaluation, summarize
from aspo_megatron.evaluation.scores import Estimate, Scores, difference_estimate, mean_estimate, pass_at_k


@pytest.mark.parametrize("samples", [1, 2, 5, 8])
def test_pass_at_k_is_the_share_of_subsets_with_a_right_response(samples: int) -> None:
    for correct, k in itertools.product(range(samples + 1), range(1, samples + 1)):
        right = [True] * correct + [False] * (samples - correct)
        subsets = list(itertools.combinations(right, k))
        expected = Fraction(sum(any(subset) for subset in subsets), len(subsets))
        assert pass_at_k(samples, correct, k) == pytest.approx(float(expected), abs=1e-12)


def test_pass_at_k_of_many_samples_does_not_overflow() -> None:
    assert pass_at_k(2048, 1, 1024) == pytest.approx(0.5)
    assert pass_at_k(2048, 0, 1024) == 0.0
    assert pass_at_k(2048, 1500, 1024) == pytest.approx(1.0)


def test_pass_at_k_of_worked_examples() -> None:
    """By hand, and in the product form that Chen et al. (2021) print, for their 200 samples."""

    def printed(n: int, c: int, k: int) -> float:
        return 1.0 if n - c < k else float(1.0 - np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))

    assert pass_at_k(5, 2, 2) == pytest.approx(0.7)  # of ten pairs three have no right one
    assert [pass_at_k(2, 1, k) for k in (1, 2)] == [0.5, 1.0]
    for k in (1, 10, 100):
        assert pass_at_k(200, 30, k) == pytest.approx(printed(200, 30, k), abs=1e-12)


def test_the_interval_is_the_mean_with_1_96_standard_errors() -> None:
    """Shares of 0.25, 0.5, 0.75 and 1: mean 0.625, deviation 0.3227, standard error 0.1614."""
    values = [0.25, 0.5, 0.75, 1.0]
    error = statistics.stdev(values) / math.sqrt(4)
    estimate = mean_estimate(values)
    assert estimate.value == 0.625
    assert estimate.low == pytest.approx(0.625 - 1.959964 * error, abs=1e-6)
    assert estimate.low == pytest.approx(0.3087, abs=1e-4)
    assert estimate.high == pytest.approx(0.9413, abs=1e-4)
    assert mean_estimate([0.0, 1.0]).low == 0.0  # cut off
    assert mean_estimate([0.0, 1.0]).high == 1.0


def test_one_response_a_problem_gives_the_binomial_interval() -> None:
    """40 problems of which 10 are right: the textbook sqrt(p (1 - p) / n), but for n - 1 in place of n."""
    estimate = mean_estimate([1.0] * 10 + [0.0] * 30)
    assert estimate.high is not None
    assert estimate.high - 0.25 == pytest.approx(1.959964 * math.sqrt(0.25 * 0.75 / 39), rel=1e-6)


@pytest.mark.parametrize(("count", "far"), [(20, 0.16843), (30, 0.11570), (500, 0.00735)])
def test_where_all_problems_agree_the_interval_is_exact(count: int, far: float) -> None:
    """Clopper and Pearson's for no success of n, as their tables have it."""
    none, every = mean_estimate([0.0] * count), mean_estimate([1.0] * count)
    assert (none.low, every.high) == (0.0, 1.0)
    assert none.high == pytest.approx(far, abs=1e-5)
    assert every.low == pytest.approx(1 - far, abs=1e-5)


def test_few_problems_have_no_interval() -> None:
    assert mean_estimate([]) == Estimate(0.0, None, None)
    assert mean_estimate([0.5]) == Estimate(0.5, None, None)
    assert str(mean_estimate([0.5])) == "50.0%"


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """30 problems of very different difficulty, 8 responses each; what is estimated is the mean over all problems."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        chances = generator.beta(0.7, 0.9, size=30)
        scores = Scores.of(generator.binomial(8, chances).tolist(), 8, (8,))
        assert scores.average.low is not None
        assert scores.average.high is not None
        covered += scores.average.low <= 0.7 / 1.6 <= scores.average.high
    assert 920 <= covered <= 970  # a little below 95 %, as the normal approximation is with 30


def test_differences_are_paired() -> None:
    """What problems have in common drops out: two models that differ by 0.1 on each problem surely differ."""
    easy_to_hard = [0.1, 0.4, 0.8, 0.3, 0.6]
    better = [value + 0.1 + noise for value, noise in zip(easy_to_hard, (0.02, -0.01, 0.0, 0.01, -0.02), strict=True)]
    estimate = difference_estimate(better, easy_to_hard)
    assert estimate.value == pytest.approx(0.1)
    assert estimate.low == pytest.approx(0.1 - 1.959964 * math.sqrt(0.00025 / 5), abs=1e-6)
    assert difference_estimate([], []) == Estimate(0.0, None, None)


def make_records(rewards: list[list[float]]) -> list[dict[str, Any]]:
    return [{"index": index, "reward": reward} for index, group in enumerate(rewards) for reward in group]


def test_scores_over_problems() -> None:
    rewards = [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]]
    result = summarize(make_records(rewards), samples=4, pass_k=(1, 2, 4))
    assert result.average == pytest.approx(7 / 16)
    assert result.metrics() == {
        "eval/avg@4": result.average,
        "eval/pass@1": pytest.approx(result.average),
        "eval/pass@2": pytest.approx((1 / 2 + 1 + 0 + 5 / 6) / 4),
        "eval/pass@4": pytest.approx(3 / 4),
        "eval/problems": 4.0,
        "eval/sampling_error": pytest.approx(math.sqrt((3 / 16 + 1 / 4) / 3) / 4),
    }
    assert result.scores.right == (1, 4, 0, 2)


def test_the_sampling_error_is_how_far_avg_at_k_jumps() -> None:
    """Of 2,000 evaluations of the same problems: the mean of the estimated variances is the variance."""
    chances = np.array([0.0, 0.02, 0.3, 0.5, 0.9, 1.0] * 5)
    right = np.random.default_rng(0).binomial(4, chances, (2000, 30))
    scores = [Scores.of(counts.tolist(), 4, (1,)) for counts in right]
    estimated = np.mean([(one.sampling_error or 0.0) ** 2 for one in scores])
    assert estimated == pytest.approx(np.var([one.average.value for one in scores]), rel=0.06)
    assert estimated == pytest.approx(np.sum(chances * (1 - chances)) / 4 / 30**2, rel=0.02)


def test_one_response_to_each_problem_has_no_sampling_error_that_is_known() -> None:
    assert "eval/sampling_error" not in summarize(make_records([[1.0], [0.0]]), samples=1, pass_k=(1,)).metrics()


def test_the_order_of_records_does_not_matter() -> None:
    records = make_records([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    shuffled = random.Random(0).sample(records, len(records))
    assert summarize(shuffled, 2, (1, 2)).metrics() == summarize(records, 2, (1, 2)).metrics()


def test_only_full_marks_count_as_right() -> None:
    """Some tasks of reasoning-gym give part of the credit, and a user's reward may give more than 1."""
    assert summarize(make_records([[0.99, 0.5, -1.0, 1.5]]), samples=4, pass_k=(1,)).average == 0.25


def test_no_problem_is_no_error() -> None:
    assert summarize([], samples=4, pass_k=(1, 4)).metrics() == {
        "eval/avg@4": 0.0, "eval/pass@1": 0.0, "eval/pass@4": 0.0, "eval/problems": 0.0
    }  # fmt: skip


def test_records_are_written_as_they_are(tmp_path: Path) -> None:
    records = [{"index": 0, "response": "zwölf\n12 ≠ 13", "reward": 1.0}, {"index": 1, "response": "", "reward": 0.0}]
    Evaluation(Scores.of((1, 0), 1, (1,)), records).write(tmp_path / "deep" / "eval.jsonl")
    lines = (tmp_path / "deep" / "eval.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == records
