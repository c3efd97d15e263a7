"""The table of the step benchmark says what was measured."""

from __future__ import annotations

from benchmarks.step import OURS, TRL, Measured, report


def steps(*seconds: float) -> list[dict[str, float]]:
    return [
        {"tokens": 600.0, "step": each, "generate": each / 2, "score": each / 6, "update": each / 3} for each in seconds
    ]


def test_ratios_of_speed_and_memory() -> None:
    ours = [Measured(steps(4.0, 2.0), 300), Measured(steps(4.0, 2.0), 500)]
    theirs = [Measured(steps(8.0, 6.0), 800), Measured(steps(8.0, 6.0), 800)]
    (row,) = [line for line in report({"short": {OURS: ours, TRL: theirs}}).splitlines() if "smollm2" in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:3] == ["2.33", "0.50"]
    assert cells[3:] == ["1.5", "3.5", "0.5", "1.2", "1.0", "2.3", "3.0", "7.0"]


def test_alone_there_is_no_ratio() -> None:
    (row,) = [line for line in report({"short": {OURS: [Measured(steps(4.0), 300)]}}).splitlines() if "smollm2" in line]
    assert row.count(" - |") == 2 + 4
