"""Layouts of the matrix that are no part of another, in bf16, on the stand-in for a GPU: each stage does its work."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from parallel.layouts import FP32, Layout
from thorough import some_of

from aspo_megatron.config import KernelsConfig, ParallelConfig
from aspo_megatron.simulation.device.ledger import Figures

from .runs import Setup, updates

MORE_ROWS = {
    "pp4": Layout(ParallelConfig(pp=4)),  # has middle stages
    "moe-tp2-sp-ep2-etp1-sent": Layout(
        ParallelConfig(tp=2, ep=2, etp=1, sequence_parallel=True), "qwen3-moe", kernels=KernelsConfig(experts="sent")
    ),
}


def is_part(row: Layout, other: Layout) -> bool:
    """Whether the other row has all of this one's parallelism, and more; and the rest is alike.

    Of rows with experts also who shares these, as which buffers they are in depends on it.
    """
    ours, theirs = (each.parallel.model_dump(exclude_defaults=True) for each in (row, other))
    shared_alike = all(ours.get(key) == theirs.get(key) for key in ("ep", "etp"))
    return ours.items() < theirs.items() and shared_alike and replace(row, parallel=other.parallel) == other


ALL_ROWS = FP32 | MORE_ROWS
ROWS = {
    name: row
    for name, row in ALL_ROWS.items()
    if row.parallel.world_size == 1 or not any(is_part(row, other) for other in ALL_ROWS.values())
}


def model_of(row: Layout) -> str:
    """The folder of a model that has the stages' layers."""
    return f"{row.model}-deep" if row.parallel.pp > 1 else row.model


def ranks_of(parallel: ParallelConfig) -> list[int]:
    """One rank of the first, a middle and the last pipeline stage: the last of its stage, whose shards are odd."""
    per_stage = parallel.world_size // parallel.pp
    return [stage * per_stage + per_stage - 1 for stage in sorted({0, parallel.pp // 2, parallel.pp - 1})]


CASES = [(name, rank) for name, row in ROWS.items() for rank in ranks_of(row.parallel)]

MOST_WAITS_OF_AN_UPDATE = 3
WAITS_OF_AN_EXPERT_LAYER = 1
EXPERTS = "moe/token_dispatcher.py"
"""Where megatron-core waits to learn how many tokens an expert gets."""


def expected_waits(figures: Figures) -> Counter[str]:
    """Waits but for those of experts."""
    return Counter({place: n for place, n in figures.waits.items() if EXPERTS not in place})


def check_budgets(figures: dict[str, Figures], expert_layers: int = 0) -> None:
    """No wait and no pageable copy inside micro-batches, and few waits in an update.

    `expert_layers`: how many the rank computes in all micro-batches of an update, those that it computes again too, if
    tokens are sent to their experts (`model.kernels.experts`).
    """
    inside = figures["update: micro-batches"].waits
    assert inside.total() == expert_layers * WAITS_OF_AN_EXPERT_LAYER
    for stretch in ("update: micro-batches", "pass: micro-batches"):
        assert expected_waits(figures[stretch]) == Counter()
        assert figures[stretch].copies == Counter()
    assert expected_waits(figures["update"]).total() <= MOST_WAITS_OF_AN_UPDATE, figures["update"].waits
    assert figures["update"].copies == Counter()
    assert figures["pass"].copies == Counter()


FEW = {
    "cp2-tp2-sp",
    "dp2-pp2-vpp2-distopt-overlap",
    "moe-tp2-sp-ep2-etp1",
    "moe-tp2-sp-ep2-etp1-sent",
}


@pytest.mark.parametrize(
    ("name", "rank"),
    some_of(CASES, [case for case in CASES if case[0] in FEW]),
    ids=[f"{name}-rank{rank}" for name, rank in CASES],
)
def test_layout(name: str, rank: int, simulated: Callable[..., Any], folders: dict[str, Path]) -> None:
    row = ROWS[name]
    settings = {"kernels": {"fusion": row.kernels.fusion, "experts": row.kernels.experts}}
    setup = Setup(folders[model_of(row)], row.parallel, rank, row.recompute, settings=settings)
    figures = simulated(updates, setup)
    last = rank >= row.parallel.world_size // row.parallel.pp * (row.parallel.pp - 1)
    of_log_prob = (
        "aten.mm.dtype_out",
        "aspo_megatron.log_prob_sums.default",
        "aspo_megatron.log_prob_gradient.default",
    )
    assert [name in figures["update"].calls for name in of_log_prob] == [last] * 3
    passes = setup.family.num_layers // row.parallel.pp * setup.prompts
    calls = figures["update"].calls
    assert calls["aspo_megatron.rotate_heads.default"] == passes * (2 if row.recompute == "full" else 1)
    assert calls["aspo_megatron.rotate_heads_back.default"] == passes
    again = 1 if row.recompute in ("none", "light") else 2
    check_budgets(figures, passes * again if setup.family.num_experts and row.kernels.experts == "sent" else 0)


FAMILY_ROWS = {
    "tp2-sp-cp2": (ParallelConfig(tp=2, sequence_parallel=True, cp=2), 3),
    "pp2-distopt": (ParallelConfig(pp=2, dp=2, distributed_optimizer=True), 3),
}


OF_FAMILIES = [(family, row, "gspo") for family in ("llama", "qwen2", "qwen3") for row in FAMILY_ROWS] + [
    ("qwen3", row, "grpo") for row in FAMILY_ROWS
]


@pytest.mark.parametrize(("family", "row", "loss"), some_of(OF_FAMILIES, OF_FAMILIES[1:2]))
def test_family(family: str, row: str, loss: str, simulated: Callable[..., Any], folders: dict[str, Path]) -> None:
    """gspo looks at whole responses, so that its log-probs have a backward of their own."""
    parallel, rank = FAMILY_ROWS[row]
    figures = simulated(updates, Setup(folders[family], parallel, rank, loss=loss))
    assert figures["update"].calls["aten._flash_attention_backward.default"]
    check_budgets(figures)
