"""A run that is killed or stopped goes on as if nothing had happened.

Starting `aspo train` takes seconds, so most ranks here are forked from a process that has imported everything: that
leaves time for many moments. Those of a save, at a hundredth of the distance, are in checkpoint/test_killed_saves.py.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import psutil
import pytest
from forked import Server, fork_ranks, kill
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from thorough import some_of

from .command import ASPO, RunFolder, aspo, finish, start

pytestmark = [pytest.mark.e2e, pytest.mark.distributed, pytest.mark.timeout(300)]

STEPS = 6
SETTINGS = [
    "parallel={tp: 2, sequence_parallel: true}",
    f"train.steps={STEPS}",
    "checkpoint={every: 2, keep: 2}",
    "warmup={updates: 12, batch_size: 48, lr: 3e-3}",
    "optimizer={lr: 1e-3, schedule: linear, warmup_updates: 3}",
    "eval={every: 3, samples: 1, pass_k: [1], max_problems: 8}",
    "log.samples_per_step=24",
]


# ---- runs whose ranks are forked: this happens in the server ---------------------------------------------------


def go_on(work: Path, name: str, *more: str) -> list[BaseProcess]:
    """Start the two ranks of a run, or go on with it; what they print is in NAME.log."""
    from aspo_megatron.config.io import load_config
    from aspo_megatron.inputs.read import read_inputs
    from aspo_megatron.launch.run_folder import claimed

    os.chdir(work)
    config = load_config(Path("small.yaml"), [f"output_dir={name}", *SETTINGS, *more])
    with claimed(config):
        return fork_ranks(2, rank, config, read_inputs(config), work / f"{name}.log")


def rank(config: Any, inputs: Any, log: Path) -> None:
    from aspo_megatron.launch.stop import StopRequest
    from aspo_megatron.train.main import train

    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.stdout = os.fdopen(1, "w", buffering=1)
    train(config, inputs, StopRequest())


def wait_for(ranks: list[BaseProcess]) -> None:
    for process in ranks:
        process.join(120)
        assert process.exitcode == 0, process.exitcode


def run_to_the_end(work: Path, name: str, *more: str) -> None:
    wait_for(go_on(work, name, *more))


def kill_again_and_again(work: Path, name: str, kills: int) -> list[str]:
    """Kill a run at random moments of its whole length, and go on; what was killed when."""
    chance = random.Random(5)
    run = RunFolder(work / name)
    moments = sorted(chance.uniform(0.0, STEPS) for _ in range(kills))
    told = []
    for number, moment in enumerate(moments):
        ranks = go_on(work, name)
        if number % 4 == 3:  # while it starts, reads the state, or is just back at work
            time.sleep(chance.uniform(0.0, 3.0))
        else:
            while len(run.metrics()) <= int(moment) and all(process.is_alive() for process in ranks):
                time.sleep(0.005)
            time.sleep(run.metrics()[-1].get("seconds/step", 0.3) * (moment % 1.0))
        victims = chance.choice([ranks, ranks[:1], ranks[1:]])
        told.append(f"{len(victims)} of {len(ranks)} ranks after step {len(run.metrics()) - 1}")
        kill(victims)
        time.sleep(chance.uniform(0.0, 0.2))  # in which a rank that is left runs on, waits or fails
        kill(ranks)
    run_to_the_end(work, name)
    return told


def stop_a_rank(work: Path, name: str) -> None:
    """Send SIGUSR1 to one of the ranks in the first step, where no state but the one for the signal is saved."""
    ranks = go_on(work, name, "checkpoint={every: 0, keep: 2}")
    run = RunFolder(work / name)
    while not run.metrics():
        assert all(process.is_alive() for process in ranks)
        time.sleep(0.005)
    assert ranks[1].pid
    os.kill(ranks[1].pid, signal.SIGUSR1)
    wait_for(ranks)


def diverge(work: Path, name: str) -> None:
    """Train at a rate that no weight survives."""
    for process in go_on(work, name, "optimizer.lr=1e30", "checkpoint.every=1"):
        process.join(120)
        assert process.exitcode


# ---- the tests -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as started:
        yield started


@pytest.fixture(scope="module")
def whole(server: Server, work: Path) -> RunFolder:
    """The run that nobody disturbs."""
    server.run(run_to_the_end, work, "whole")
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
    events = EventAccumulator(str(run.path / "tensorboard"), size_guidance={"scalars": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("reward/mean")] == list(range(1, STEPS + 1))


@pytest.mark.parametrize("kills", some_of([4, 8], [4]))
def test_killed_at_random_moments(server: Server, work: Path, whole: RunFolder, kills: int) -> None:
    """Both ranks or one of them, in steps, in saves and at the start, again and again in one run."""
    name = f"killed-{kills}"
    print("killed:", *server.run(kill_again_and_again, work, name, kills), sep="\n  ")
    assert "resuming after step" in (work / f"{name}.log").read_text()
    assert_same(RunFolder(work / name), whole)


@pytest.fixture
def again(work: Path, whole: RunFolder, request: pytest.FixtureRequest) -> RunFolder:
    """A copy of the finished run, as if it had been killed at its very end."""
    name = request.node.name
    shutil.copytree(whole.path, work / name)
    (work / name / "summary.json").unlink()
    config = (work / name / "config.yaml").read_text()
    (work / name / "config.yaml").write_text(config.replace("output_dir: whole", f"output_dir: {name}"))
    return RunFolder(work / name)


def spoil(run: RunFolder) -> Path:
    """Flip a bit in the latest state."""
    path = next((run.path / "checkpoints" / f"step-{STEPS:06d}").glob("*.distcp"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 16
    path.write_bytes(data)
    return path


def test_a_damaged_state_is_refused_and_the_one_before_used(
    server: Server, work: Path, whole: RunFolder, again: RunFolder
) -> None:
    path = spoil(again)
    server.run(run_to_the_end, work, again.path.name)
    said = (work / f"{again.path.name}.log").read_text()
    assert f"warning: {path.relative_to(work)}: damaged" in said
    assert f"resuming from step-{STEPS - 2:06d} instead" in said
    shutil.rmtree(again.path / "checkpoints" / f"step-{STEPS:06d}.refused")
    assert_same(again, whole)


def test_another_layout_agrees_to_rounding(server: Server, work: Path, whole: RunFolder, again: RunFolder) -> None:
    shutil.rmtree(again.path / "checkpoints" / f"step-{STEPS:06d}")
    layout = "parallel={dp: 2, distributed_optimizer: true, tp: 1, sequence_parallel: false}"
    server.run(run_to_the_end, work, again.path.name, layout)
    for step in range(STEPS - 1, STEPS + 1):
        one, other = whole.step(step), again.step(step)
        for name in one.keys() & other.keys():
            if not name.startswith("engine_log_prob_diff/"):
                assert other[name] == pytest.approx(one[name], rel=2e-3, abs=2e-5), name


# ---- the command -----------------------------------------------------------------------------------------------


STOPPED = "stopped as asked; to resume: aspo train {}/config.yaml\n"


def begin(work: Path, name: str, *more: str) -> subprocess.Popen[str]:
    return start([*ASPO, "train", "small.yaml", f"output_dir={name}", *SETTINGS, *more], work)


@pytest.mark.thorough
def test_the_command_is_killed_and_stopped(server: Server, work: Path, whole: RunFolder) -> None:
    """All its processes as soon as a half-written state is there; SIGTERM at once, before the next step is done."""
    run = RunFolder(work / "command")
    server.run(stop_a_rank, work, "command")
    assert_stopped_well(run, (work / "command.log").read_text())

    command = begin(work, "command")
    wait(command, lambda: any(run.path.glob("checkpoints/step-*.partial")), 0.001)  # there for some milliseconds
    processes = psutil.Process(command.pid).children(recursive=True)
    for process in [psutil.Process(command.pid), *processes]:
        process.kill()
    finish(command)
    psutil.wait_procs(processes, timeout=20)

    command = begin(work, "command", "checkpoint={every: 0, keep: 2}")
    wait(command, lambda: not any(run.path.glob("checkpoints/*.partial")), 0.05)
    command.send_signal(signal.SIGTERM)
    done = finish(command)
    assert (done.code, done.stderr) == (0, "")
    if run.latest() == run.metrics()[-1]["step"]:
        assert_stopped_well(run, done.stdout)
    else:  # granted before it has gone on, with the figures of the killed step still there
        assert done.stdout.endswith(STOPPED.format("command"))

    server.run(run_to_the_end, work, "command")
    assert_same(run, whole)


def wait(command: subprocess.Popen[str], condition: Callable[[], bool], pause: float) -> None:
    while not condition():
        assert command.poll() is None, finish(command)
        time.sleep(pause)


def assert_stopped_well(run: RunFolder, said: str) -> None:
    stopped = run.metrics()[-1]["step"]
    assert said.endswith(STOPPED.format(run.path.name))
    assert run.latest() == stopped
    if stopped:  # a slow rank may note the signal before its first step, after which there is nothing to export
        assert "held-out accuracy" in (run.path / "exports" / f"step-{stopped:06d}" / "README.md").read_text()


def test_what_is_said_of_a_used_folder(work: Path, whole: RunFolder) -> None:
    done = aspo("train", "whole/config.yaml", folder=work)
    assert (done.code, done.stdout) == (0, f"whole has done its {STEPS} steps; to train further, raise train.steps\n")
    done = finish(begin(work, "whole", "loss.eps_low=0.3", "train.epochs=2"))
    assert done.code == 2
    assert "whole holds another run, which differs in loss.eps_low, train.epochs" in done.stderr
    assert json.loads((work / "whole" / "summary.json").read_text()) == whole.summary()


def test_a_loss_that_is_no_number_ends_the_run(server: Server, work: Path) -> None:
    server.run(diverge, work, "diverged")
    log = (work / "diverged.log").read_text()
    assert "is nan, and the weights are lost with it" in log or "is inf, and the weights are lost with it" in log
    assert len(RunFolder(work / "diverged").metrics()) == 1  # the evaluation before the first step
    assert not list((work / "diverged").glob("checkpoints/step-*"))
