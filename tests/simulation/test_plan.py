"""The plan's memory is that of a step on the stand-in, within 5 %, in layouts of each kind. Models of few layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from thorough import some_of

from aspo_megatron.plan.hardware import H100
from aspo_megatron.simulation.beside_plan import compared
from aspo_megatron.simulation.phases import Phase
from aspo_megatron.simulation.run import ranks_of

from .plans import check_plan, recipe_run, shallow, simulated_run


@dataclass(frozen=True)
class Case:
    """A recipe's model with so many layers, and other settings."""

    recipe: str
    layers: int
    settings: tuple[str, ...]


def case(recipe: str, layers: int, *settings: str) -> Case:
    return Case(recipe, layers, settings)


BLOCK = 256 << 20
"""Host memory is locked in blocks of it, or for a larger tensor of the next power of two."""
SHORT = ("rollout.sampling.max_response_tokens=4096", "train.max_tokens_per_micro_batch=8192")
NONE = "model.recompute=none"
SPLIT = "parallel={tp: 2, cp: 1, sequence_parallel: true}"
# What the recipes recompute (light), unless a case says another word.
CASES = {
    "tp4-plain": case("qwen3_8b", 2, "parallel={tp: 4, sequence_parallel: false}", NONE),
    "pp4-vpp2": case("qwen3_4b", 8, "parallel={tp: 1, cp: 1, sequence_parallel: false, pp: 4, vpp: 2}", *SHORT),
    "cp2-full": case("deepseek_r1_distill_qwen_1_5b", 3, "parallel={cp: 2}", *SHORT, "model.recompute=full"),
    "dp2-selective": case(
        "deepseek_r1_distill_qwen_1_5b", 3, "parallel={cp: 1, dp: 2}", *SHORT, "model.recompute=selective"
    ),
    "experts-etp2": case(
        "qwen3_30b_a3b",
        2,
        "parallel={tp: 2, cp: 1, pp: 1, dp: 4, ep: 4, etp: 2, sequence_parallel: true}",
        NONE,
        *SHORT,
    ),
    "tp4-light": case("qwen3_8b", 2, "parallel={tp: 4, sequence_parallel: true}", "model.recompute=light"),
    "experts-light": case(
        "qwen3_30b_a3b", 2, "parallel={tp: 2, cp: 1, pp: 1, dp: 4, ep: 8, etp: 1, sequence_parallel: true}", *SHORT
    ),
    "fp32": case("qwen3_4b", 2, SPLIT, "model.dtype=float32", "model.kernels.fusion=false", NONE, *SHORT),
    "offload": case("qwen3_4b", 4, "parallel={tp: 2, cp: 1, pp: 2}", "optimizer.offload=true", *SHORT),
    "colocate": case("qwen3_8b", 2, "parallel={tp: 2}", "rollout.servers={colocate: true, sync: tensor}", *SHORT),
    "reference-on-device": case("qwen3_8b", 2, "parallel={tp: 2}", "model.reference=device", *SHORT),
    "gspo-embedded": case(
        "qwen3_4b",
        2,
        SPLIT,
        "rollout={engine: embedded, max_batch_tokens: 400000}",
        "loss={name: gspo, eps_low: 0.0003, eps_high: 0.0004}",
        *SHORT,
    ),
}
RANKS = [
    (name, rank)
    for name, each in CASES.items()
    for rank in ranks_of(recipe_run(each.recipe, *each.settings)[0].parallel)
]


FEW = [place for place in RANKS if place[0] in ("experts-etp2", "gspo-embedded")]


@pytest.mark.parametrize(("name", "rank"), some_of(RANKS, FEW), ids=[f"{name}-rank{rank}" for name, rank in RANKS])
def test_plan_is_what_is_simulated(name: str, rank: int, simulated: Callable[..., Any], tmp_path: Path) -> None:
    each = CASES[name]
    model = shallow(each.recipe, each.layers, tmp_path / "model")
    figures = simulated(simulated_run, each.recipe, rank, each.settings, model)
    run, family = recipe_run(each.recipe, *each.settings, model=model)
    check_plan(run, family, figures)
    found = compared(run, family, figures, H100)
    assert found.planned_bytes[Phase.HELD] == pytest.approx(figures.phases[Phase.HELD].peak_bytes, rel=0.002)
    for what, locked in figures.locked.items():
        planned = getattr(found.locked, what)
        print(f"{what}: planned {planned / 1e9:.2f} GB of locked memory, simulated {locked / 1e9:.2f} GB")
        assert 0.95 * planned <= locked <= 2 * planned + (BLOCK if planned else 0)
