"""avg@K and pass@k: against counting all subsets, and over records as an evaluation has them."""

from __future__ import annotations

import itertools
import json
import random
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from aspo_megatron.evaluate import Evaluation, pass_at_k, summarize


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


def make_records(rewards: list[list[float]]) -> list[dict[str, Any]]:
    return [{"index": index, "reward": reward} for index, group in enumerate(rewards) for reward in group]


def test_scores_over_problems() -> None:
    rewards = [[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 1.0, 0.0]]
    result = summarize(make_records(rewards), samples=4, pass_k=(1, 2, 4))
    assert result.average == pytest.approx(7 / 16)
    assert result.pass_at[1] == pytest.approx(result.average)
    assert result.pass_at[2] == pytest.approx((1 / 2 + 1 + 0 + 5 / 6) / 4)
    assert result.pass_at[4] == pytest.approx(3 / 4)
    assert result.metrics() == {
        "eval/avg@4": result.average,
        "eval/pass@1": result.pass_at[1],
        "eval/pass@2": result.pass_at[2],
        "eval/pass@4": result.pass_at[4],
    }


def test_the_order_of_records_does_not_matter() -> None:
    records = make_records([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    shuffled = random.Random(0).sample(records, len(records))
    assert summarize(shuffled, 2, (1, 2)).metrics() == summarize(records, 2, (1, 2)).metrics()


def test_only_full_marks_count_as_right() -> None:
    """Some tasks of reasoning-gym give part of the credit, and a user's reward may give more than 1."""
    assert summarize(make_records([[0.99, 0.5, -1.0, 1.5]]), samples=4, pass_k=(1,)).average == 0.25


def test_no_problem_is_no_error() -> None:
    assert summarize([], samples=4, pass_k=(1, 4)).metrics() == {
        "eval/avg@4": 0.0, "eval/pass@1": 0.0, "eval/pass@4": 0.0
    }  # fmt: skip


def test_records_are_written_as_they_are(tmp_path: Path) -> None:
    records = [{"index": 0, "response": "zwölf\n12 ≠ 13", "reward": 1.0}, {"index": 1, "response": "", "reward": 0.0}]
    Evaluation(1, 0.5, {1: 0.5}, records).write(tmp_path / "deep" / "eval.jsonl")
    lines = (tmp_path / "deep" / "eval.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == records
