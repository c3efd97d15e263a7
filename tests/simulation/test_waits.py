"""A GPU works while the host prepares what comes next: the host waits for it at the end of an update, and not before.

And nothing is copied to it from memory that is not page-locked, for which the host would wait, too.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aspo_megatron.config import ParallelConfig

from .runs import Figures, Setup, updates

MICRO_BATCHES, MOE_LAYERS = 2, 4

ROWS: dict[str, tuple[str, ParallelConfig, dict[str, Any]]] = {
    "single": ("llama-tied", ParallelConfig(), {}),
    "tp2-sp-cp2": ("qwen3", ParallelConfig(tp=2, sequence_parallel=True, cp=2), {}),
    "dp2-distopt": ("llama-tied", ParallelConfig(dp=2, distributed_optimizer=True), {}),
    "recompute-full": ("llama-tied", ParallelConfig(), {"recompute": "full"}),
    "whole responses": ("llama-tied", ParallelConfig(), {"loss": "gspo"}),
    "whole responses, cp2": ("llama-tied", ParallelConfig(cp=2), {"loss": "gspo"}),
}


def waits(figures: Figures) -> dict[str, int]:
    """Without those for a size that the host has given: `repeat_interleave` with `output_size` waits for nothing."""
    return {place: count for place, count in figures.waits.items() if "losses/responses.py" not in place}


@pytest.mark.parametrize("name", ROWS)
def test_an_update_waits_for_its_gradient_norm_and_its_figures(
    name: str, simulated: Callable[..., Any], folders: dict[str, Path]
) -> None:
    model, parallel, settings = ROWS[name]
    figures = simulated(updates, Setup(folders[model], parallel, **settings), 1)
    found = waits(figures["update"])
    assert sum(found.values()) == 2, found
    assert any("clip_grads.py" in place for place in found)
    assert any("statistics.py" in place for place in found)
    assert not figures["update"].copies
    assert sum(waits(figures["pass"]).values()) == 1  # for all log-probs
    assert not figures["pass"].copies


@pytest.mark.parametrize("parallel", [ParallelConfig(), ParallelConfig(tp=2, ep=2, etp=1, sequence_parallel=True)])
def test_experts_wait_once_a_layer(
    parallel: ParallelConfig, simulated: Callable[..., Any], folders: dict[str, Path]
) -> None:
    """For how many tokens go to each rank and expert, which the exchange and the products must be told."""
    figures = simulated(updates, Setup(folders["qwen3-moe"], parallel), 1)
    for work in ("update", "pass"):
        events = {place: count for place, count in waits(figures[work]).items() if "token_dispatcher.py" in place}
        assert sum(events.values()) == MICRO_BATCHES * MOE_LAYERS
        assert all(place.startswith("event") for place in events)
        assert sum(waits(figures[work]).values()) - sum(events.values()) <= 3
        assert not figures[work].copies
