"""A run whose files get no room, and one whose output goes nowhere."""

from __future__ import annotations

import resource
import subprocess
from pathlib import Path

import psutil
import pytest

from .command import ASPO, Finished, RunFolder, aspo, finish, start, wait_until
from .conftest import Train

pytestmark = [pytest.mark.e2e, pytest.mark.distributed, pytest.mark.timeout(300)]

STEPS = 8
SETTINGS = [f"train.steps={STEPS}", "checkpoint.every=0", "eval={every: 2, samples: 1, pass_k: [1], max_problems: 8}"]
NO_ROOM = (1, resource.RLIM_INFINITY)
ROOM = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


@pytest.fixture(scope="module")
def undisturbed(train: Train) -> RunFolder:
    return train("undisturbed", *SETTINGS)


def same(run: RunFolder, other: RunFolder) -> None:
    assert [line["step"] for line in run.metrics()] == [line["step"] for line in other.metrics()]
    for step in range(STEPS + 1):
        assert run.step(step) == other.step(step)
        if step % 2 == 0:
            assert run.evaluation(step) == other.evaluation(step)
    assert (run.path / "samples.jsonl").read_bytes() == (other.path / "samples.jsonl").read_bytes()


def fill_the_disk(work: Path, run: RunFolder) -> tuple[subprocess.Popen[str], psutil.Process]:
    """Start a run whose rank can write no file any more after its first line of metrics."""
    process = start([*ASPO, "train", "small.yaml", f"output_dir={run.path.name}", *SETTINGS], work)
    wait_until(lambda: bool(run.metrics()), "a line of metrics")
    (rank,) = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "aspo_megatron.train_rank" in child.cmdline()
    ]
    rank.rlimit(psutil.RLIMIT_FSIZE, NO_ROOM)
    return process, rank


def test_a_disk_that_is_full_for_a_moment(work: Path, undisturbed: RunFolder) -> None:
    run = RunFolder(work / "moment")
    process, rank = fill_the_disk(work, run)
    assert process.stdout is not None
    before = []
    while not before or "cannot be written: File too large; the run goes on, and" not in before[-1]:
        before.append(process.stdout.readline())
        assert before[-1], before
    rank.rlimit(psutil.RLIMIT_FSIZE, ROOM)
    done = finish(process)
    assert (done.code, done.stderr) == (0, "")
    shown = "".join(before) + done.stdout
    assert shown.count("cannot be written: File too large; the run goes on, and") == 1
    assert shown.count("what waited for room is written") == 1
    assert shown.count("tensorboard: cannot be written: File too large; the run goes on without it") <= 1
    same(run, undisturbed)


def test_a_disk_that_stays_full(work: Path, undisturbed: RunFolder) -> None:
    run = RunFolder(work / "for-good")
    process, _ = fill_the_disk(work, run)
    done = finish(process)
    assert done.code == 2
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: for-good/")
    assert "cannot be written: File too large" in line
    assert not (run.path / "summary.json").exists()
    again = aspo("train", "small.yaml", "output_dir=for-good", *SETTINGS, folder=work)
    assert (again.code, again.stderr) == (0, "")
    same(run, undisturbed)


@pytest.mark.parametrize("redirection", [">/dev/full", "| head -1"])
def test_a_run_whose_output_goes_nowhere(work: Path, redirection: str) -> None:
    name = f"nowhere-{len(redirection)}"
    command = f'set -o pipefail; "$0" "$@" {redirection}'
    settings = ["train.steps=1", "eval.every=0", "checkpoint.every=0"]
    done = run_in_shell(command, work, [*ASPO, "train", "small.yaml", f"output_dir={name}", *settings])
    assert done.code == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert RunFolder(work / name).summary()["steps"] == 1


def run_in_shell(command: str, folder: Path, argv: list[str]) -> Finished:
    return finish(start(["bash", "-c", command, *argv], folder))
