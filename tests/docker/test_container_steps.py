"""The steps of docker/Dockerfile.cpu, without a container: an environment made from nothing, which trains."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ("train.steps=2", "parallel.tp=1", "warmup.updates=2", "data.train.size=300", "eval.max_problems=8")


def run(*words: str | Path, folder: Path, **given: str) -> str:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        list(map(str, words)), cwd=folder, env=kept | given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def left_by_builds() -> set[Path]:
    """What setuptools leaves beside the sources; in a checkout nothing of it may be new."""
    return {*ROOT.glob("build/*"), *ROOT.glob("*.egg-info")}


@pytest.mark.thorough
@pytest.mark.timeout(3000)
def test_the_steps_for_cpus_make_an_environment_that_trains(tmp_path: Path) -> None:
    """Two gigabytes. `TORCH_INDEX` is that of this process, or pip's own, as for the rest of the tests."""
    steps = ("venv", "torch-cpu", "requirements", "project", "doctor")
    before = left_by_builds()
    said = run(
        ROOT / "docker" / "install.sh",
        *("--python", "python3.11", "--into", tmp_path / "into"),
        *steps,
        folder=tmp_path,
        TORCH_INDEX=os.environ.get("TORCH_INDEX", ""),
    )
    assert left_by_builds() == before
    assert [line for line in said.splitlines() if line.startswith("docker/install.sh: ")] == [
        f"docker/install.sh: {step}" for step in steps
    ]
    assert "No broken requirements found." in said
    assert " 0 wrong" in said.splitlines()[-1]
    aspo = tmp_path / "into" / ".venv" / "bin" / "aspo"
    run(aspo, "recipes", "tiny", folder=tmp_path)
    run(aspo, "train", "tiny/run.yaml", *SMALL, folder=tmp_path)
    summary = json.loads((tmp_path / "runs" / "tiny" / "summary.json").read_text(encoding="utf-8"))
    assert summary["steps"] == 2
