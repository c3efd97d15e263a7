"""The planned memory is that of real updates: what is always there exactly, what an update takes within 10 %.

`python -m benchmarks.plan_memory` compares many more layouts, with the memory of processes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from parallel.memory import Allocations
from thorough import one_in

from benchmarks.plan_memory import Case, Measured, compare, measure_rank
from distributed import Ranks

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(240)]

CASES = (
    Case("llama", {"tp": 2, "sequence_parallel": True}),
    Case("llama", {"cp": 2}, "selective"),
    Case("qwen2", {"dp": 2, "distributed_optimizer": True}, loss="gspo"),
    Case("qwen3", {"pp": 2, "vpp": 2}),
    Case("qwen3", {}, "full"),
    Case("qwen3_moe", {"dp": 2, "ep": 2}),
)


def allocated(function: Callable[[], object]) -> int:
    with Allocations() as seen:
        function()
    return seen.peak


def measured(folder: Path, case: Case) -> Measured:
    return measure_rank(folder, case, allocated)


@pytest.mark.parametrize("case", one_in(3, CASES), ids=str)
def test_plan_is_what_is_measured(case: Case, models: Path, ranks: Ranks) -> None:
    for row in compare(models, case, ranks.run(case.layout.world_size, measured, models, case)):
        print(row, f"{row.ratio:.3f}")
        # A distributed optimizer's buffers are padded, so that they can be split evenly.
        slack = 0.001 * row.resident if case.layout.distributed_optimizer else 0
        assert abs(row.planned_resident - row.resident) <= slack
        assert row.ratio == pytest.approx(1.0, abs=0.1)
