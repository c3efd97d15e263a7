"""The layouts for as many GPUs as there are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.gpu_check import nccl
from benchmarks.gpu_check.lines import Place, Sheet, Status, read_lines


def place(tmp_path: Path, gpus: int) -> Place:
    return Place(torch.device("cuda:0"), False, gpus, tmp_path / "work", 120.0)


def test_one_gpu_is_not_enough(tmp_path: Path) -> None:
    nccl.run(Sheet("nccl", tmp_path / "lines", on_gpu=True), place(tmp_path, 1))
    (line,) = read_lines(tmp_path / "lines")
    assert line.status is Status.NOT_DONE
    assert "needs 2 GPUs, 1 here" in line.note


@pytest.mark.parametrize(("gpus", "more"), [(2, []), (4, ["tp=2,pp=2,sp", "tp=2,dp=2,sp,distopt"])])
def test_layouts_for_the_gpus_there_are(tmp_path: Path, gpus: int, more: list[str]) -> None:
    found = nccl._layouts(place(tmp_path, gpus))
    assert {"tp=2", "tp=2,sp", "pp=2", "cp=2,distopt", "dp=2,distopt", *more} <= set(found["qwen2"])
    assert ("tp=2,pp=2,sp" in found["qwen2"]) is (gpus == 4)
    assert "dp=2,ep=2" in found["qwen3-moe"]
