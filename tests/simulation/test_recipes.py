"""The recipes at their real sizes and layouts: a rank of each kind of stage trains within an 80 GB GPU."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from aspo_megatron.simulation.ledger import Figures

from .runs import recipe
from .test_layouts import check_budgets

RANKS = {
    "deepseek_r1_distill_qwen_1_5b": (3,),
    "qwen3_4b": (3,),
    "qwen3_8b": (3,),
    "qwen3_30b_a3b": (7, 15),  # the first and the last stage
}
CASES = [(name, rank) for name, ranks in RANKS.items() for rank in ranks]
GPU_BYTES = 80e9


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("name", "rank"), CASES, ids=[f"{name}-rank{rank}" for name, rank in CASES])
def test_recipe(name: str, rank: int, recipes: dict[tuple[str, int], Future[dict[str, Figures]]]) -> None:
    figures, setup = recipes[name, rank].result(), recipe(name, rank)
    update = figures["update"]
    print(f"{name}, rank {rank}: peak {update.peak_bytes / 1e9:.1f} GB, {update.calls.total()} operations")
    assert update.peak_bytes < GPU_BYTES
    experts = setup.family.num_layers // setup.parallel.pp if setup.family.num_experts else 0
    check_budgets(figures, experts * setup.prompts)
