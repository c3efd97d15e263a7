"""A run that is killed or stopped goes on as if nothing had happened."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from .command import ASPO, Finished, RunFolder, aspo, finish, start, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

STEPS = 8
SETTINGS = [
    "parallel={tp: 2, sequence_parallel: true}",
    f"train.steps={STEPS}",
    "checkpoint={every: 2, keep: 2}",
    "warmup={updates: 20, batch_size: 48, lr: 3e-3}",
    "optimizer={lr: 1e-3, schedule: linear, warmup_updates: 3}",
    "eval={every: 3, samples: 1, pass_k: [1], max_problems: 8}",
    "log.samples_per_step=24",
]


def begin(work: Path, name: str, *more: str) -> subprocess.Popen[str]:
    return start([*ASPO, "train", "small.yaml", f"output_dir={name}", *SETTINGS, *more], work)


def train(work: Path, name: str, *more: str) -> Finished:
    return finish(begin(work, name, *more))


@pytest.fixture(scope="module")
def whole(work: Path) -> RunFolder:
    """The run that nobody disturbs."""
    done = train(work, "whole")
    assert (done.code, done.stderr) == (0, "")
    return RunFolder(work / "whole")


def assert_same(run: RunFolder, whole: RunFolder) -> None:
    """Every figure of every step, every response and the trained model, bit for bit; nothing twice."""
    assert [line["step"] for line in run.metrics()] == [line["step"] for line in whole.metrics()]
    for step in range(STEPS + 1):
        assert run.step(step) == whole.step(step)
    for file in ("samples.jsonl", "hf/model.safetensors", f"eval/step-{STEPS:06d}.jsonl"):
        assert (run.path / file).read_bytes() == (whole.path / file).read_bytes(), file
    assert {path.name for path in (run.path / "eval").iterdir()} == {p.name for p in (whole.path / "eval").iterdir()}
    summaries = [{key: value for key, value in each.summary().items() if key != "seconds"} for each in (run, whole)]
    assert summaries[0] == summaries[1]
    assert not [path for path in run.path.rglob("*") if path.name.endswith((".partial", ".removed"))]
    assert {path.name for path in (run.path / "checkpoints").iterdir()} == {
        "latest",
        "start",
        f"step-{STEPS - 2:06d}",
        f"step-{STEPS:06d}",
    }
    assert (run.path / "checkpoints" / "latest").read_text() == f"step-{STEPS:06d}\n"


def wait_for_end(command: subprocess.Popen[str], run: RunFolder, moment: float) -> bool:
    """Wait until `moment` steps (and a part of one) are done; whether the run goes on."""
    wait_until(lambda: len(run.metrics()) > int(moment) or command.poll() is not None, f"step {int(moment)}")
    seconds = run.metrics()[-1].get("seconds/step", 0.1)
    time.sleep(seconds * (moment % 1.0))
    return command.poll() is None


def test_killed_at_random_moments(work: Path, whole: RunFolder) -> None:
    """All processes at once or one rank, in steps and in saves, several times over in one run."""
    chance = random.Random(5)
    run = RunFolder(work / "killed")
    for moment in (chance.uniform(0.0, 2.0), chance.uniform(2.9, 3.9), chance.uniform(5.0, 6.0)):
        command = begin(work, "killed")
        assert wait_for_end(command, run, moment), finish(command)
        processes = psutil.Process(command.pid).children(recursive=True)
        ranks = [process for process in processes if "aspo_megatron.rank" in process.cmdline()]
        for victim in [chance.choice(ranks)] if chance.random() < 0.5 else [psutil.Process(command.pid), *processes]:
            victim.kill()
        finish(command)
        psutil.wait_procs(processes, timeout=20)
    done = train(work, "killed")
    assert (done.code, done.stderr) == (0, "")
    assert "going on after step" in done.stdout
    assert_same(run, whole)
    events = EventAccumulator(str(run.path / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("reward/mean")] == list(range(1, STEPS + 1))


def test_killed_during_a_save(work: Path, whole: RunFolder) -> None:
    """As soon as a half-written checkpoint is there."""
    run = RunFolder(work / "saving")
    command = begin(work, "saving")
    partial = run.path / "checkpoints" / "step-000004.partial"
    while not partial.exists():  # it is there for some milliseconds
        assert command.poll() is None, finish(command)
        time.sleep(0.001)
    processes = psutil.Process(command.pid).children(recursive=True)
    os.killpg(command.pid, signal.SIGKILL)
    finish(command)
    psutil.wait_procs(processes, timeout=20)
    done = train(work, "saving")
    assert (done.code, done.stderr) == (0, "")
    assert_same(run, whole)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_and_stops(work: Path, whole: RunFolder, number: signal.Signals) -> None:
    run = RunFolder(work / f"stopped-{number.name}")
    command = begin(work, run.path.name, "checkpoint={every: 0, keep: 2}")
    wait_until(lambda: len(run.metrics()) > 1 or command.poll() is not None, "a step")
    command.send_signal(number)
    done = finish(command)
    assert (done.code, done.stderr) == (0, "")
    stopped = run.metrics()[-1]["step"]
    assert done.stdout.endswith(f"stopped as asked; to go on: aspo train {run.path.name}/config.yaml\n")
    assert [path.name for path in (run.path / "exports").iterdir()] == [f"step-{stopped:06d}"]
    assert "held-out accuracy" in (run.path / "exports" / f"step-{stopped:06d}" / "README.md").read_text()
    assert (run.path / "checkpoints" / "latest").read_text() == f"step-{stopped:06d}\n"
    if number == signal.SIGTERM:
        done = aspo("train", f"{run.path.name}/config.yaml", "checkpoint={every: 2, keep: 2}", folder=work)
        assert (done.code, done.stderr) == (0, "")
        for step in range(STEPS + 1):
            assert run.step(step) == whole.step(step)


@pytest.fixture
def again(work: Path, whole: RunFolder, request: pytest.FixtureRequest) -> RunFolder:
    """A copy of the finished run, as it was two steps before its end."""
    name = f"again-{abs(hash(request.node.name))}"
    shutil.copytree(whole.path, work / name)
    config = (work / name / "config.yaml").read_text()
    (work / name / "config.yaml").write_text(config.replace("output_dir: whole", f"output_dir: {name}"))
    (work / name / "summary.json").unlink()
    return RunFolder(work / name)


def test_a_damaged_state_is_refused_and_the_one_before_used(work: Path, whole: RunFolder, again: RunFolder) -> None:
    path = next((again.path / "checkpoints" / f"step-{STEPS:06d}").glob("*.distcp"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)
    done = train(work, again.path.name)
    assert (done.code, done.stderr) == (0, "")
    where = path.relative_to(work)
    assert f"warning: {where}: damaged" in done.stdout
    assert f"going on from step-{STEPS - 2:06d} instead" in done.stdout
    shutil.rmtree(again.path / "checkpoints" / f"step-{STEPS:06d}.refused")
    assert_same(again, whole)


def test_another_layout_agrees_to_rounding(work: Path, whole: RunFolder, again: RunFolder) -> None:
    shutil.rmtree(again.path / "checkpoints" / f"step-{STEPS:06d}")
    done = train(
        work, again.path.name, "parallel={dp: 2, distributed_optimizer: true, tp: 1, sequence_parallel: false}"
    )
    assert (done.code, done.stderr) == (0, "")
    for step in range(STEPS - 1, STEPS + 1):
        one, other = whole.step(step), again.step(step)
        for name in one.keys() & other.keys():
            if not name.startswith("engine_log_prob_diff/"):
                assert other[name] == pytest.approx(one[name], rel=2e-3, abs=2e-5), name


def test_what_is_said_of_a_used_folder(work: Path, whole: RunFolder) -> None:
    done = aspo("train", "whole/config.yaml", folder=work)
    assert (done.code, done.stdout) == (0, f"whole has done its {STEPS} steps; to go on, raise train.steps\n")
    done = train(work, "whole", "loss.eps_low=0.3", "train.epochs=2")
    assert done.code == 2
    assert "whole holds another run, which differs in loss.eps_low, train.epochs" in done.stderr
    summary = json.loads((work / "whole" / "summary.json").read_text())
    assert summary == whole.summary()
