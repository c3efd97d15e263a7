"""The benchmark of scaling measures what it says: on a small model, in ranks of its own."""

from __future__ import annotations

import pytest

from benchmarks.ranks import in_ranks
from benchmarks.scaling import Case, efficiency_table, growth_table, measure, slope

SMALL = Case(hidden=64, layers=2, vocab=500, groups=2, response=12)


@pytest.mark.distributed
@pytest.mark.timeout(180)
def test_ranks_are_measured() -> None:
    alone, *_ = in_ranks(1, measure, SMALL, 2, True)
    pair = in_ranks(2, measure, Case(**{**vars(SMALL), "parallel": {"tp": 2}}), 1, True)
    assert len(alone["seconds"]) == 2
    assert all(value > 0 for rank in (alone, *pair) for value in rank["seconds"])
    assert all(0.01 < rank["collectives"] < 1 for rank in pair)
    assert alone["collectives"] < min(rank["collectives"] for rank in pair)


def test_slopes_are_those_of_powers() -> None:
    assert slope([1.0, 2.0, 4.0], [3.0, 6.0, 12.0]) == pytest.approx(1.0)
    assert slope([1.0, 2.0, 4.0], [3.0, 12.0, 48.0]) == pytest.approx(2.0)


def test_tables() -> None:
    table = efficiency_table(SMALL, {"one process": (4.0, 0.0), "tp=2": (2.5, 0.2)})
    assert "| tp=2 | 1.60x | 80% | 20% |" in table
    points = [(Case(layers=2), 1.0, 100), (Case(layers=4), 2.0, 100)]
    assert "| layers | 2 to 4 | 1.00 | 0.00 |" in growth_table({"layers": points})
