"""The benchmark of scaling measures what it says: on a small model, in ranks of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.ranks import in_ranks
from benchmarks.scaling import Case, Measured, draw, efficiency_table, growth_table, measure, slope

SMALL = Case(hidden=64, layers=2, vocab=500, groups=2, response=12)


@pytest.mark.thorough
@pytest.mark.distributed
@pytest.mark.timeout(180)
def test_ranks_are_measured() -> None:
    alone, *_ = in_ranks(1, measure, SMALL, 2, "collectives")
    pair = in_ranks(2, measure, replace(SMALL, parallel={"tp": 2}), 1, "collectives")
    assert len(alone["seconds"]) == 2
    assert all(value > 0 for rank in (alone, *pair) for value in rank["seconds"])
    assert all(0.01 < rank["collectives"] < 1 for rank in pair)
    assert all(0.0 < rate < 1.5 for rate in alone["rate"].values())
    assert alone["collectives"] < min(rank["collectives"] for rank in pair)


def test_slopes_are_those_of_powers() -> None:
    assert slope([1.0, 2.0, 4.0], [3.0, 6.0, 12.0]) == pytest.approx(1.0)
    assert slope([1.0, 2.0, 4.0], [3.0, 12.0, 48.0]) == pytest.approx(2.0)


def test_tables(tmp_path: Path) -> None:
    table = efficiency_table(
        SMALL,
        {"one process": Measured(4.0, 0.0, 2e9, {"update": 0.7}), "tp=2": Measured(2.5, 0.2, 1.8e9, {"update": 0.6})},
    )
    assert "| tp=2 | 1.60x | 80% | 20% |" in table
    assert "70% (update)" in table
    assert "at 90% of the rate" in table
    points = [(Case(layers=2), 1.0, 100), (Case(layers=4), 2.0, 100)]
    assert "| layers | 2 to 4 | 1.00 | 0.00 |" in growth_table({"layers": points})
    draw({"layers": points}, tmp_path / "images" / "scaling.png")
    assert (tmp_path / "images" / "scaling.png").stat().st_size > 1000
