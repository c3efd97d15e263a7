"""The benchmark of packing counts what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.packing import PROMPTS, groups_of_lengths, main, wastes


def test_equal_samples_waste_nothing_but_repeated_prompts() -> None:
    group = groups_of_lengths(np.random.default_rng(1))[0][:1] * 4
    prompt, response = len(group[0].prompt_ids), len(group[0].response_ids)
    useful = prompt + 4 * (response - 1)
    padded = 4 * (prompt + response) / useful - 1
    assert wastes([group], 1) == pytest.approx([0.0, 0.0, 0.0, padded, padded])
    assert wastes([group], 2) == pytest.approx([0.0, 1.0, 1.0, padded, padded])


def test_the_table_is_written(tmp_path: Path) -> None:
    main(batches=1, out=tmp_path)
    rows = [line for line in (tmp_path / "packing_benchmark.md").read_text().splitlines() if line.endswith("% |")]
    assert [row.split("|")[1].strip() for row in rows] == ["1", "4", "8", "16", "32"]


def test_sorted_by_length_less_is_padded() -> None:
    groups = groups_of_lengths(np.random.default_rng(2))
    assert len(groups) == PROMPTS
    *_, packed, sorted_, padded = wastes(groups, 8)
    assert packed < sorted_ < padded
