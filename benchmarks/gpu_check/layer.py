"""What a layer computes between its products, in bf16 against fp64: heads (`heads.py`), experts (`experts.py`)."""

from __future__ import annotations

from aspo_megatron.config import ParallelConfig, PlatformConfig
from aspo_megatron.parallel.grid.topology import process_grid
from benchmarks.gpu_check.experts import show_experts
from benchmarks.gpu_check.figures import fresh_random
from benchmarks.gpu_check.heads import show_heads
from benchmarks.gpu_check.lines import Place, Sheet


def run(sheet: Sheet, place: Place) -> None:
    """Both."""
    with process_grid(ParallelConfig(), PlatformConfig(device=place.device.type), seed=1) as topology:
        fresh_random(place.device)  # the grid has set a seed
        show_heads(sheet, place)
        show_experts(sheet, place, topology.tp.group)
