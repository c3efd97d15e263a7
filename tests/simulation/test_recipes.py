"""The recipes at their real sizes and layouts: a rank of each kind of stage trains within an 80 GB GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aspo_megatron.config_io import load_config

from .runs import Setup, updates
from .test_layouts import MOST_WAITS_OF_AN_UPDATE, WAITS_OF_AN_EXPERT_LAYER, expected_waits

EXAMPLES = Path(__file__).parents[2] / "examples"
RANKS = {
    "deepseek_r1_distill_qwen_1_5b": (3,),
    "qwen3_4b": (3,),
    "qwen3_8b": (3,),
    "qwen3_30b_a3b": (7, 15),  # the first and the last stage
}
CASES = [(name, rank) for name, ranks in RANKS.items() for rank in ranks]
GPU_BYTES = 80e9
RESPONSES = 4


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "rank"), CASES, ids=[f"{name}-rank{rank}" for name, rank in CASES])
def test_recipe(name: str, rank: int, simulated: Callable[..., Any]) -> None:
    folder = EXAMPLES / name / "model"
    run = load_config(EXAMPLES / name / "run.yaml", [f"model.path={folder}"])
    length = (run.train.max_tokens_per_micro_batch - run.data.max_prompt_tokens) // RESPONSES
    setup = Setup(
        folder,
        run.parallel,
        rank,
        run.model.recompute,
        prompts=run.parallel.pp,
        prompt=run.data.max_prompt_tokens,
        responses=(length,) * RESPONSES,
        loss=run.loss.name,
    )
    figures = simulated(updates, setup)
    update, inside = figures["update"], figures["update: micro-batches"]
    assert update.peak_bytes < GPU_BYTES
    assert expected_waits(inside).total() == 0
    assert not update.copies
    assert expected_waits(update).total() <= MOST_WAITS_OF_AN_UPDATE
    experts = setup.family.num_layers // run.parallel.pp * setup.prompts if setup.family.num_experts else 0
    assert inside.waits.total() == experts * WAITS_OF_AN_EXPERT_LAYER
    print(f"{name}, rank {rank}: peak {update.peak_bytes / 1e9:.1f} GB, {update.calls.total()} operations")
