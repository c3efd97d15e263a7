"""The recipes at their real sizes and layouts: a step of each kind of stage, on an 80 GB GPU and as it is planned.

Two of them also on fewer GPUs, with the optimizer's state in the host's memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aspo_megatron.config import RunConfig
from aspo_megatron.models.family import Family
from aspo_megatron.parallel.device.piece_copies import PIECE_BYTES, PIECES
from aspo_megatron.plan.hardware import H100
from aspo_megatron.plan.memory.parameters import largest_parameter, rank_parameters
from aspo_megatron.simulation.beside_plan import compared
from aspo_megatron.simulation.phases import Phase
from aspo_megatron.simulation.run import RankFigures, ranks_of

from .plans import check_plan, recipe_run, shallow, simulated_run
from .test_layouts import MOST_WAITS_OF_AN_UPDATE

RECIPES = ("deepseek_r1_distill_qwen_1_5b", "qwen3_4b", "qwen3_8b", "qwen3_30b_a3b")
AFTER_BACKWARD = "parallel/update/statistics.py"
CASES = [(name, rank) for name in RECIPES for rank in ranks_of(recipe_run(name)[0].parallel)]


OFFLOADED = {
    "qwen3_8b": ("parallel={tp: 1, sequence_parallel: false}", "model.recompute=full", "optimizer.offload=true"),
    "qwen3_30b_a3b": ("parallel={pp: 1}", "model.recompute=full", "optimizer.offload=true"),
}
"""Recipes with half as many GPUs or fewer: one, and eight."""


@pytest.mark.thorough  # test_plan.py has shallow ones
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("name", "rank"),
    CASES,
    ids=[f"{name}-rank{rank}" for name, rank in CASES],
)
def test_recipe(name: str, rank: int, simulated: Callable[..., Any]) -> None:
    figures, (run, family) = simulated(simulated_run, name, rank), recipe_run(name)
    assert figures.peak_bytes < H100.memory
    check_plan(run, family, figures)
    check_waits(run, family, figures)


@pytest.mark.thorough
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", OFFLOADED)
def test_recipe_on_fewer_gpus(name: str, simulated: Callable[..., Any]) -> None:
    figures, (run, family) = simulated(simulated_run, name, 0, OFFLOADED[name]), recipe_run(name, *OFFLOADED[name])
    check_plan(run, family, figures)
    check_waits(run, family, figures)
    check_offload(run, family, figures)
    planned = compared(run, family, figures, H100).planned
    assert figures.peak_bytes + planned.reserved < H100.memory
    run, _ = recipe_run(name, *OFFLOADED[name], "optimizer.offload=false")
    assert compared(run, family, figures, H100).planned.total > H100.memory


def test_recipe_on_fewer_gpus_of_one_layer(simulated: Callable[..., Any], tmp_path: Path) -> None:
    name = "qwen3_8b"
    settings = (*OFFLOADED[name], "rollout.sampling.max_response_tokens=1024", "train.max_tokens_per_micro_batch=4096")
    model = shallow(name, 1, tmp_path / "model")
    figures = simulated(simulated_run, name, 0, settings, model)
    run, family = recipe_run(name, *settings, model=model)
    check_plan(run, family, figures)
    check_waits(run, family, figures)
    check_offload(run, family, figures)


def check_offload(run: RunConfig, family: Family, figures: RankFigures) -> None:
    """Between updates the GPU has weights and gradients alone; in the optimizer's step a few pieces, or a gradient."""
    held = figures.phases[Phase.HELD].peak_bytes
    parameters = rank_parameters(family, run.parallel, figures.stage)
    assert held == pytest.approx((2 + 4) * parameters.total, rel=0.002)
    step = figures.phases[Phase.OPTIMIZER].peak_bytes - figures.phases[Phase.OPTIMIZER].held_bytes
    largest = largest_parameter(family, run.parallel, figures.stage)
    assert step <= 1.01 * max(4 * largest, PIECES * PIECE_BYTES)
    planned = compared(run, family, figures, H100).locked.optimizer
    assert planned <= figures.locked["optimizer"] <= 2 * planned


def check_waits(run: RunConfig, family: Family, figures: RankFigures) -> None:
    """The host waits for no more than it must in an update, and copies nothing pageable."""
    inside = [
        figures.phases[phase] for phase in (Phase.FORWARD, Phase.BACKWARD, Phase.EMBEDDING) if phase in figures.phases
    ]
    update = [*inside, figures.phases[Phase.OPTIMIZER]]
    waits = sum((part.waits for part in update), Counter[str]())
    assert waits.total() <= MOST_WAITS_OF_AN_UPDATE
    # The last is the figures' of the update, when all micro-batches are done.
    assert all(AFTER_BACKWARD in place for part in inside for place in part.waits)
    assert not any(part.copies for part in (*update, figures.phases[Phase.SCORING]))
