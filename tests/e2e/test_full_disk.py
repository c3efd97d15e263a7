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

STEPS = 6
NO_ROOM = (1, resource.RLIM_INFINITY)
ROOM = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
REWARD = """
import time
from pathlib import Path

calls = 0

def score(problem, response, gates):
    global calls
    if response == problem.answer:  # as in the trial before anything is started
        return float(len(response) % 2)
    calls += 1
    gate = Path(gates, {1: "first", 60: "later"}.get(calls, "none"))  # in the evaluations at steps 0 and 2
    if gate.name != "none":
        Path(f"{gate}.reached").touch()
        while not gate.exists():
            time.sleep(0.02)
    return float(len(response) % 2)
"""


def settings(gates: Path) -> list[str]:
    return [
        f"train.steps={STEPS}",
        "checkpoint.every=0",
        "eval={every: 2, samples: 1, pass_k: [1], max_problems: 8}",
        f"reward={{kind: gated:score, workers: 1, timeout_seconds: 280, options: {{gates: '{gates}'}}}}",
    ]


@pytest.fixture
def gates(tmp_path: Path) -> Path:
    """A folder; scoring waits at two places until it has a file with the name of the place."""
    return tmp_path


@pytest.fixture(scope="module")
def undisturbed(work: Path, train: Train, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    (work / "gated.py").write_text(REWARD)
    return train("undisturbed", *settings(opened(tmp_path_factory.mktemp("gates"))))


def opened(gates: Path) -> Path:
    for name in ("first", "later"):
        (gates / name).touch()
    return gates


def same(run: RunFolder, other: RunFolder) -> None:
    assert [line["step"] for line in run.metrics()] == [line["step"] for line in other.metrics()]
    for step in range(STEPS + 1):
        assert run.step(step) == other.step(step)
        if step % 2 == 0:
            assert run.evaluation(step) == other.evaluation(step)
    assert (run.path / "samples.jsonl").read_bytes() == (other.path / "samples.jsonl").read_bytes()


def fill_the_disk(work: Path, run: RunFolder, gates: Path) -> tuple[subprocess.Popen[str], psutil.Process]:
    """Start a run whose rank can write no file any more from its first evaluation on."""
    process = start([*ASPO, "train", "small.yaml", f"output_dir={run.path.name}", *settings(gates)], work)
    wait_until((gates / "first.reached").exists, "the first evaluation")
    (rank,) = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if "aspo_megatron.train.main" in child.cmdline()
    ]
    rank.rlimit(psutil.RLIMIT_FSIZE, NO_ROOM)
    return process, rank


@pytest.mark.thorough
def test_a_disk_that_is_full_for_a_moment(work: Path, undisturbed: RunFolder, gates: Path) -> None:
    run = RunFolder(work / "moment")
    process, rank = fill_the_disk(work, run, gates)
    (gates / "first").touch()
    wait_until((gates / "later.reached").exists, "a later step")
    rank.rlimit(psutil.RLIMIT_FSIZE, ROOM)
    (gates / "later").touch()
    done = finish(process)
    assert (done.code, done.stderr) == (0, "")
    assert done.stdout.count("cannot be written: File too large; the run continues, and what is not written waits") == 1
    assert done.stdout.count("what waited for room is written") == 1
    assert done.stdout.count("tensorboard: cannot be written: File too large; the run continues without it") == 1
    same(run, undisturbed)


@pytest.mark.thorough
def test_a_disk_that_stays_full(work: Path, undisturbed: RunFolder, gates: Path) -> None:
    run = RunFolder(work / "for-good")
    process, _ = fill_the_disk(work, run, gates)
    opened(gates)
    done = finish(process)
    assert done.code == 2
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: for-good/")
    assert "cannot be written: File too large" in line
    assert not (run.path / "summary.json").exists()
    again = aspo("train", "small.yaml", "output_dir=for-good", *settings(gates), folder=work)
    assert (again.code, again.stderr) == (0, "")
    same(run, undisturbed)


@pytest.mark.thorough
@pytest.mark.parametrize("redirection", [">/dev/full", "| head -1"])
def test_a_run_whose_output_goes_nowhere(work: Path, redirection: str) -> None:
    name = f"nowhere-{len(redirection)}"
    command = f'set -o pipefail; "$0" "$@" {redirection}'
    short = ["train.steps=1", "eval.every=0", "checkpoint.every=0"]
    done = run_in_shell(command, work, [*ASPO, "train", "small.yaml", f"output_dir={name}", *short])
    assert done.code == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.count("stdout cannot be written") == 1
    assert RunFolder(work / name).summary()["steps"] == 1


def run_in_shell(command: str, folder: Path, argv: list[str]) -> Finished:
    return finish(start(["bash", "-c", command, *argv], folder))
