"""Layouts whose ranks share a device are compared with one process, and a tensor that goes astray is found."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.gpu_check import layouts, two_processes
from benchmarks.gpu_check.lines import Line, Place, Sheet, Status, read_lines

FIGURES = {"losses of two updates", "gradient norm", "gradients", "weights after two updates"}


def run(tmp_path: Path) -> dict[str, Line]:
    lines = tmp_path / "lines"
    two_processes.run(
        Sheet("two_processes", lines, on_gpu=False), Place(torch.device("cpu"), True, 0, tmp_path / "work", 120.0)
    )
    return {line.name: line for line in read_lines(lines)}


@pytest.mark.thorough
@pytest.mark.distributed
def test_all_layouts_give_what_one_process_gives(tmp_path: Path) -> None:
    found = run(tmp_path)
    rows = [f"{model} {text}" for model, texts in two_processes._LAYOUTS.items() for text in texts]
    figures = FIGURES | {"tensors of the device in collectives"}
    assert set(found) == {f"{row}: {figure}" for row in rows for figure in figures}
    assert {line.status for line in found.values()} == {Status.ON_CPU}


@pytest.mark.thorough
@pytest.mark.distributed
def test_what_goes_wrong_between_ranks_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "_RANK", "tests.gpu_check.broken_rank")
    monkeypatch.setattr(two_processes, "_LAYOUTS", {"qwen2": ("dp=2", "tp=2,sp")})
    found = run(tmp_path)
    assert "ended with exit code 1" in found["qwen2 dp=2"].note
    assert found["qwen2 dp=2"].status is Status.FAILED
    # The row after the one whose rank has died.
    assert found["qwen2 tp=2,sp: gradients"].status is Status.FAILED
