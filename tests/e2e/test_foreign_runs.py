"""Resuming a run folder of somebody else runs nothing that is in it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from checkpoint.hostile import INDEXES, PIECES, sign

from .command import ASPO, RunFolder, finish, start

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(800)]

KINDS = {
    "seen at once": INDEXES["bytes for a tensor"],
    "seen as it is loaded": PIECES["a shell command in the words"],
}


@pytest.mark.thorough
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_would_act_is_refused(work: Path, first: RunFolder, kind: str) -> None:
    spoil, reason = KINDS[kind]
    name = f"foreign {kind}"
    state = Path(shutil.copytree(first.path, work / name)) / "checkpoints" / "step-000001"
    spoil(state, work / "MARKER")
    sign(state)
    done = finish(start([*ASPO, "train", f"{name}/config.yaml", f"output_dir={name}", "train.steps=2"], work), 400)
    assert not (work / "MARKER").exists()
    assert done.code == 2
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: no saved state of {name} can be used: {name}/checkpoints/step-000001")
    assert reason.rpartition(", which")[2] in line
    assert "Traceback" not in done.stderr
