"""The recipes at their real sizes and layouts: a step of each kind of stage, on an 80 GB GPU and as it is planned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from aspo_megatron.plan.hardware import H100
from aspo_megatron.simulation.phases import Phase
from aspo_megatron.simulation.run import ranks_of

from .plans import check_plan, recipe_run, simulated_run
from .test_layouts import MOST_WAITS_OF_AN_UPDATE

RECIPES = ("deepseek_r1_distill_qwen_1_5b", "qwen3_4b", "qwen3_8b", "qwen3_30b_a3b")
AFTER_BACKWARD = "parallel/update/statistics.py"
CASES = [(name, rank) for name in RECIPES for rank in ranks_of(recipe_run(name)[0].parallel)]


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
    inside = [
        figures.phases[phase] for phase in (Phase.FORWARD, Phase.BACKWARD, Phase.EMBEDDING) if phase in figures.phases
    ]
    update = [*inside, figures.phases[Phase.OPTIMIZER]]
    waits = sum((part.waits for part in update), Counter[str]())
    assert waits.total() <= MOST_WAITS_OF_AN_UPDATE
    # The last is the figures' of the update, when all micro-batches are done.
    assert all(AFTER_BACKWARD in place for part in inside for place in part.waits)
    assert not any(part.copies for part in (*update, figures.phases[Phase.SCORING]))
