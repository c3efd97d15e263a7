"""The converters hold a tensor or so at a time: their memory is a fraction of one rank's share of the model."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.convert import make_model, measure, measure_or_reason, to_hf, to_megatron

pytestmark = pytest.mark.timeout(120)


@pytest.mark.thorough
def test_peak_memory(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", layers=4)
    there = measure(to_megatron, model, tmp_path / "megatron", {"pp": 2})
    back = measure(to_hf, tmp_path / "megatron", tmp_path / "back")
    shard = max(path.stat().st_size for path in (tmp_path / "megatron").glob("*.distcp"))
    assert shard > 60 << 20
    print(f"of a shard of {shard >> 20} MiB: {there.peak / shard:.2f} there, {back.peak / shard:.2f} back")
    assert there.peak < 0.5 * shard
    assert back.peak < 0.5 * shard


def test_what_cannot_run_says_why(tmp_path: Path) -> None:
    reason = measure_or_reason(to_hf, tmp_path / "none", tmp_path / "back")
    assert isinstance(reason, str)
    assert "there is no folder" in reason
