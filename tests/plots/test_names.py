"""Names of runs: as much as tells them apart, in pictures, text and pages."""

from __future__ import annotations

from pathlib import Path

import pytest
from plots.made_runs import write_run

from aspo_megatron.errors import UserError
from aspo_megatron.plots.names import run_names
from aspo_megatron.plots.series import read_series

LONG = "2026-11-01_qwen2.5-1.5b-math"


@pytest.mark.parametrize(
    ("folders", "names"),
    [
        (["one"], ["one"]),
        (["x/a", "x/b"], ["a", "b"]),
        (["x/run", "y/run"], ["x", "y"]),
        (["exp/aspo/seed1/out", "exp/grpo/seed1/out"], ["aspo", "grpo"]),
        (["exp/aspo/seed1", "exp/grpo/seed2"], ["aspo/seed1", "grpo/seed2"]),
        (["aspo-1", "aspo-2"], ["aspo-1", "aspo-2"]),  # short enough
        ([f"{LONG}_aspo_seed1", f"{LONG}_grpo_seed1"], ["aspo", "grpo"]),
        ([f"{LONG}_aspo_seed-1", f"{LONG}_aspo_seed-2"], ["seed-1", "seed-2"]),  # a number alone says little
        ([LONG, f"{LONG}_long"], ["math", "math_long"]),
        (["a/b", "a/b/c"], ["b", "b/c"]),
        ([f"{LONG}-a", f"{LONG}-a-"], [f"{LONG}-a", f"{LONG}-a-"]),  # nothing but a dash is between them
        (["x" * 30 + "1", "x" * 30 + "2"], ["x" * 30 + "1", "x" * 30 + "2"]),  # one word
    ],
    ids=range(12),
)
def test_what_all_have_in_common_is_left_out(tmp_path: Path, folders: list[str], names: list[str]) -> None:
    assert run_names([tmp_path / folder for folder in folders]) == names


def test_series_have_these_names_and_files_the_names_of_their_folders(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"{LONG}_{loss}_lr1e-6" / "output", "entropy", {1: 1.0}) for loss in ("aspo", "grpo")]
    assert [one.name for one in read_series([runs[0] / "metrics.jsonl", runs[1]], {})] == ["aspo", "grpo"]
    with pytest.raises(UserError, match="group aspo: a run has this name already"):
        read_series(runs, {"aspo": runs})
    with pytest.raises(UserError, match="this run is named twice"):
        run_names([runs[0], runs[0] / "metrics.jsonl"])
