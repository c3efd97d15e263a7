"""The alarms of runs that were made: the comparison of examples/aspo_vs_grpo, and its runs made to collapse.

recorded_runs.json.gz has what the alarms look at of the runs' metrics.jsonl, to four digits; `se` is the standard error
of an evaluation, its problems given.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from aspo_megatron.metrics.alarms import Raised, alarms_of

Records = list[dict[str, float]]
RUNS: dict[str, Records] = json.loads(gzip.decompress((Path(__file__).parent / "recorded_runs.json.gz").read_bytes()))
COLLAPSES = [name for name in RUNS if name.startswith("collapse/")]
COMPARED = [name for name in RUNS if name not in COLLAPSES]
STEADY = ("aspo", "aspo-without-dual-clip", "grpo", "dapo")


def first_collapse(name: str) -> Raised | None:
    return next((one for one in alarms_of(RUNS[name]) if one.collapse), None)


def fallen(records: Sequence[dict[str, float]]) -> int:
    """The first step with a held-out accuracy ten points below the best before."""
    best = 0.0
    for record in records:
        best = max(best, record.get("eval/avg@4", 0.0))
        if best - record.get("eval/avg@4", best) >= 0.1:
            return int(record["step"])
    raise AssertionError("it did not collapse")


def test_all_runs_are_here() -> None:
    assert (len(COMPARED), len(COLLAPSES)) == (84, 12)


def test_of_48_runs_with_losses_that_clip_none_raises_an_alarm() -> None:
    runs = [name for name in COMPARED if name.rpartition("-")[0] in STEADY]
    assert len(runs) == 48
    assert [name for name in runs if first_collapse(name)] == []


def test_of_the_84_runs_six_raise_one() -> None:
    raised = {name: one.name for name in COMPARED if (one := first_collapse(name))}
    assert raised == {
        "cispo-12": "large updates",
        "cispo-15": "large updates",
        "grpo-response-mean-15": "large updates",
        "grpo-without-is-12": "falling held-out accuracy",
        "grpo-without-is-15": "large updates",
        "grpo-without-is-16": "large updates",
    }


@pytest.mark.parametrize("name", COLLAPSES)
def test_a_collapse_is_told_within_a_step_of_the_fall(name: str) -> None:
    raised = first_collapse(name)
    assert raised is not None
    assert raised.step <= fallen(RUNS[name]) + 1
