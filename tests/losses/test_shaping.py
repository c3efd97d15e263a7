"""DAPO's soft over-long penalty."""

from __future__ import annotations

import pytest

from aspo_megatron.rewards.shaping import overlong_penalty


@pytest.mark.parametrize(
    ("length", "expected"),
    [(1, 0.0), (16384, 0.0), (16385, -1 / 4096), (18432, -0.5), (20479, -4095 / 4096), (20480, -1)],
)
def test_the_papers_setting(length: int, expected: float) -> None:
    assert overlong_penalty(length, limit=20480, zone=4096) == pytest.approx(expected, abs=1e-12)


def test_no_zone_no_penalty() -> None:
    assert overlong_penalty(100, limit=100, zone=0) == 0.0
