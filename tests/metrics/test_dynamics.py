"""The repetition rate, by hand and against a plain count."""

from __future__ import annotations

import numpy as np
import pytest

from aspo_megatron.metrics.dynamics import repetition_rate


def counted(ids: list[int], n: int) -> float:
    seen: set[tuple[int, ...]] = set()
    repeated = 0
    for start in range(len(ids) - n + 1):
        gram = tuple(ids[start : start + n])
        repeated += gram in seen
        seen.add(gram)
    return repeated / max(1, len(ids) - n + 1)


@pytest.mark.parametrize(
    ("ids", "n", "rate"),
    [
        ([1, 2, 3, 4, 5, 6], 4, 0.0),
        ([1, 2, 3, 4, 1, 2, 3, 4], 4, 1 / 5),  # 1234 2341 3412 4123 1234
        ([7] * 13, 4, 9 / 10),
        ([7] * 4, 4, 0.0),
        ([7] * 3, 4, 0.0),
        ([], 4, 0.0),
        ([5, 5, 6, 5], 1, 2 / 4),
        ([1, 2, 1, 2, 1], 2, 2 / 4),
        ([1, 2, 3, 1, 2, 4, 1, 2, 3], 3, 1 / 7),
    ],
)
def test_rates_by_hand(ids: list[int], n: int, rate: float) -> None:
    assert repetition_rate(np.array(ids, dtype=np.int64), n) == pytest.approx(rate, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 7, 8, 13])
@pytest.mark.parametrize("vocabulary", [1, 2, 5, 2**31])
def test_rates_equal_a_plain_count(n: int, vocabulary: int) -> None:
    random = np.random.default_rng(n)
    for length in (1, n, n + 1, 50, 400):
        ids = random.integers(0, vocabulary, length)
        assert repetition_rate(ids, n) == pytest.approx(counted(ids.tolist(), n), abs=1e-12)


def test_largest_ids_do_not_collide() -> None:
    top = 2**31 - 1
    assert repetition_rate(np.array([top, 0, top, 1, 0, top - 1, 0]), 2) == 0.0
    assert repetition_rate(np.array([top, 0, 3, top, 0], dtype=np.int32), 2) == 1 / 4


def test_wrong_arguments() -> None:
    with pytest.raises(ValueError, match="n at least 1"):
        repetition_rate(np.arange(5), 0)
    with pytest.raises(ValueError, match=r"must be \[T\]"):
        repetition_rate(np.zeros((2, 3), dtype=np.int64))
