"""Every layout of the matrix, in bf16, on the stand-in for a GPU: each kind of stage does its whole work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from parallel.layouts import LAYOUTS, Layout

from aspo_megatron.config import ParallelConfig

from .runs import Setup, updates

FP32_ROWS = {name: row for name, row in LAYOUTS.items() if row.dtype == "float32"}
MORE_ROWS = {"pp4": Layout(ParallelConfig(pp=4))}  # has middle stages
ROWS = FP32_ROWS | MORE_ROWS


def ranks_of(parallel: ParallelConfig) -> list[int]:
    """One rank of the first, a middle and the last pipeline stage: the last of its stage, whose shards are odd."""
    per_stage = parallel.world_size // parallel.pp
    return [stage * per_stage + per_stage - 1 for stage in sorted({0, parallel.pp // 2, parallel.pp - 1})]


CASES = [(name, rank) for name, row in ROWS.items() for rank in ranks_of(row.parallel)]


@pytest.mark.parametrize(("name", "rank"), CASES, ids=[f"{name}-rank{rank}" for name, rank in CASES])
def test_layout(name: str, rank: int, simulated: Callable[..., Any], folders: dict[str, Path]) -> None:
    row = ROWS[name]
    settings = {"kernels": {"fusion": row.fusion}}
    figures = simulated(updates, Setup(folders[row.model], row.parallel, rank, row.recompute, settings=settings), 1)
    last = rank >= row.parallel.world_size // row.parallel.pp * (row.parallel.pp - 1)
    assert ("aten.mm.dtype_out" in figures["update"].calls) == last  # the log-prob's products


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
def test_family(family: str, simulated: Callable[..., Any], folders: dict[str, Path]) -> None:
    parallel = ParallelConfig(tp=2, sequence_parallel=True, cp=2)
    figures = simulated(updates, Setup(folders[family], parallel, 3), 1)
    assert figures["update"].calls["aten._scaled_dot_product_flash_attention_backward.default"]
