"""A run that an error ends keeps every state that was written; one that cannot write a state goes on."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from forked import Server, kill
from thorough import some_of

from .command import TINY_MODEL, RunFolder
from .test_resume import go_on, wait_for

pytestmark = [pytest.mark.e2e, pytest.mark.distributed, pytest.mark.timeout(300)]

SHORT = ["train.steps=3", "checkpoint={every: 1, keep: 2}", "eval={every: 0, max_problems: 4}", "log.tensorboard=false"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as started:
        yield started


def written(trainer: Any) -> None:
    """Wait until all ranks have written the state that is under way."""
    while trainer._states._saver.writing:
        pass
    torch.distributed.barrier()


def loss_is_nan(trainer: Any) -> None:
    from aspo_megatron.train import updates

    result: Any = SimpleNamespace(loss=float("nan"), grad_norm=1.0)
    updates._check_finite(2, 1, result)


def servers_are_lost(trainer: Any) -> None:
    from aspo_megatron.rollout.engine import ServersLostError

    raise ServersLostError("no server is left")


def nothing_is_scored(trainer: Any) -> None:
    from aspo_megatron.errors import AgreedError

    raise AgreedError("no response of step 2 was scored")


def leader_fails(trainer: Any) -> None:
    from aspo_megatron.errors import UserError

    if trainer._topology.is_leader:
        raise UserError("a file cannot be written")


def another_rank_fails(trainer: Any) -> None:
    if not trainer._topology.is_leader:
        raise RuntimeError("a bug")


def leader_is_killed(trainer: Any) -> None:
    if trainer._topology.is_leader:
        os.kill(os.getpid(), signal.SIGKILL)


def another_rank_is_killed(trainer: Any) -> None:
    if not trainer._topology.is_leader:
        os.kill(os.getpid(), signal.SIGKILL)


def memory_is_out(trainer: Any) -> None:
    raise MemoryError


def interrupted(trainer: Any) -> None:
    raise KeyboardInterrupt


ALIKE = [loss_is_nan, servers_are_lost, nothing_is_scored]
OTHERS = [leader_fails, another_rank_fails, leader_is_killed, another_rank_is_killed, memory_is_out, interrupted]


@pytest.mark.parametrize("error", some_of([*ALIKE, *OTHERS], [leader_is_killed]))
def test_a_state_that_is_written_survives(server: Server, work: Path, error: Callable[[Any], None]) -> None:
    name = error.__name__
    states = server.run(fail_in_step_two, work, name, error)
    if error in ALIKE:
        assert "step-000001" in states
    if error is servers_are_lost:
        said = "no server is left; with servers the same command resumes after step 1"
        assert said in (work / f"{name}.log").read_text()
    server.run(run_on, work, name)
    assert f"resuming after step 1, from {name}/checkpoints/step-000001" in (work / f"{name}.log").read_text()
    assert [line["step"] for line in RunFolder(work / name).metrics() if "reward/mean" in line] == [1, 2, 3]


def fail_in_step_two(work: Path, name: str, error: Callable[[Any], None]) -> list[str]:
    """The names in the folder of states, after an error when the state of step 1 is written."""
    from aspo_megatron.train.learner import Learner
    from aspo_megatron.train.save_and_resume import SaveAndResume
    from aspo_megatron.train.trainer import Trainer

    step, score, running = Trainer.step, Learner.add_log_probs, list[Any]()

    def noted(trainer: Any, number: int) -> None:
        running[:] = [trainer]
        step(trainer, number)

    def failing(learner: Any, batches: Any) -> None:
        (trainer,) = running
        if trainer._state.step == 1:
            written(trainer)
            error(trainer)
        score(learner, batches)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SaveAndResume, "complete_written", lambda states: None)  # which may come before the error or not
        patch.setattr(Trainer, "step", noted)
        patch.setattr(Learner, "add_log_probs", failing)
        ranks = go_on(work, name, *SHORT)
        while all(rank.is_alive() for rank in ranks):
            ranks[0].join(0.05)
        for rank in ranks:
            rank.join(5)
        kill(ranks)
    return sorted(path.name for path in (work / name / "checkpoints").iterdir())


def run_on(work: Path, name: str, *more: str) -> None:
    wait_for(go_on(work, name, *SHORT, *more))


def test_a_run_that_begins_again_says_so(server: Server, work: Path) -> None:
    """No state is there; nor is one looked for in a run that begins."""
    server.run(run_on, work, "stateless", "train.steps=1", "checkpoint.every=0")
    said = "no state is saved in stateless/checkpoints; the run begins again at step 1"
    assert said not in (work / "stateless.log").read_text()
    server.run(run_on, work, "stateless", "train.steps=2", "checkpoint.every=0")
    assert (work / "stateless.log").read_text().count(said) == 1
    assert [line["step"] for line in RunFolder(work / "stateless").metrics() if "reward/mean" in line] == [1, 2]


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


DAMAGES = [
    (flipped, "__1_0.distcp", "damaged (its checksum"),
    (Path.unlink, "__0_0.distcp", "missing"),
    (cut, "manifest.json", "damaged (not JSON)"),
]


@pytest.mark.parametrize(("damage", "file", "why"), some_of(DAMAGES, DAMAGES[:1]))
def test_damaged_weights_before_the_first_step(
    server: Server, work: Path, damage: Callable[[Path], None], file: str, why: str
) -> None:
    """They are made again, to the same figures, and that is said."""
    name = f"start-{damage.__name__}-{file}"
    server.run(run_on, work, name, "train.steps=1")
    start = work / name / "checkpoints" / "start"
    damage(start / file)
    server.run(run_on, work, name)
    lines = (work / f"{name}.log").read_text().splitlines()
    (line,) = {line for line in lines if "the warm-up is done again" in line}
    assert line.startswith(f"warning: {name}/checkpoints/start/{file}: {why}")
    assert (start / file).exists()
    assert (start.with_name("start.refused")).exists()


@pytest.mark.thorough
def test_lines_that_the_disk_does_not_take_cost_the_save_alone(server: Server, work: Path) -> None:
    server.run(flush_fails, work, "unflushed")
    said = (work / "unflushed.log").read_text()
    assert said.count("was not saved (unflushed/metrics.jsonl: cannot be written") == 1
    states = {path.name for path in (work / "unflushed" / "checkpoints").glob("step-*")}
    assert states == {"step-000001", "step-000003"}


def flush_fails(work: Path, name: str) -> None:
    from aspo_megatron.errors import UserError
    from aspo_megatron.metrics.record import Recorder

    flush, calls = Recorder.flush, []

    def failing(recorder: Recorder) -> None:
        calls.append(1)
        if len(calls) == 2:
            raise UserError(f"{name}/metrics.jsonl: cannot be written: No space left on device")
        flush(recorder)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Recorder, "flush", failing)
        run_on(work, name)


@pytest.mark.thorough
def test_a_model_whose_positions_are_scaled(server: Server, work: Path) -> None:
    """transformers writes into the fields of such a model; the run continues, and its model has the fields it had."""
    model = Path(shutil.copytree(TINY_MODEL, work / "scaled-model"))
    config = json.loads((model / "config.json").read_text())
    del config["rope_parameters"]
    scaling = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    config |= {"rope_theta": 1e4, "rope_scaling": {**scaling, "original_max_position_embeddings": 64}}
    (model / "config.json").write_text(json.dumps(config))
    more = ["warmup.updates=0", f"model.path={model}"]
    server.run(run_on, work, "scaled", *more, "train.steps=1")
    server.run(run_on, work, "scaled", *more, "train.steps=2")
    assert "resuming after step 1, from scaled/checkpoints/step-000001" in (work / "scaled.log").read_text()
    exported = json.loads((work / "scaled" / "hf" / "config.json").read_text())
    assert exported == {**config, "dtype": "float32"}


@pytest.mark.parametrize("matters", some_of([True, False], [True]), ids=["kl", "no kl"])
def test_other_weights_in_the_models_folder(server: Server, work: Path, matters: bool) -> None:
    """They matter to the KL; a folder that has moved is the same."""
    name = f"weights-{matters}"
    more = ["model.init=pretrained", "warmup.updates=0", f"loss.kl_coef={0.01 if matters else 0.0}"]
    server.run(run_on, work, f"{name}-before", "train.steps=1")
    model = shutil.copytree(work / f"{name}-before" / "hf", work / f"{name}-model")
    server.run(run_on, work, name, *more, f"model.path={model}", "train.steps=1")
    moved = model.rename(work / f"{name}-moved")
    server.run(run_on, work, name, *more, f"model.path={moved}", "train.steps=2")
    assert "other weights" not in (work / f"{name}.log").read_text()
    weights = bytearray((moved / "model.safetensors").read_bytes())
    weights[-100:] = bytes(100)
    (moved / "model.safetensors").write_bytes(weights)
    codes = server.run(exit_codes, work, name, *more, f"model.path={moved}")
    said = (work / f"{name}.log").read_text()
    changed = f"model.path: {moved} has other weights than those that the run began with (model.safetensors differs)"
    if matters:
        assert 0 not in codes
        assert f"{changed}, and the KL refers to them; give the folder that holds those" in said
    else:
        assert codes == [0, 0]
        assert f"warning: {changed}; the run continues with its own" in said


@pytest.mark.thorough
@pytest.mark.parametrize("lost", ["removed", "damaged", "whole"])
def test_other_weights_when_the_warm_up_is_lost(server: Server, work: Path, lost: str) -> None:
    """What was warmed up of other weights is no reference of the run; what is there still is."""
    name = f"warm-{lost}"
    more = ["model.init=pretrained", "warmup={updates: 2, batch_size: 8}", "loss.kl_coef=0.01"]
    server.run(run_on, work, f"{name}-before", "train.steps=1")
    model = shutil.copytree(work / f"{name}-before" / "hf", work / f"{name}-model")
    server.run(run_on, work, name, *more, f"model.path={model}", "train.steps=1")
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-100:] = bytes(100)
    (model / "model.safetensors").write_bytes(weights)
    LOST[lost](work / name / "checkpoints" / "start")
    codes = server.run(exit_codes, work, name, *more, f"model.path={model}")
    said = (work / f"{name}.log").read_text()
    assert f"model.path: {model} has other weights than those that the run began with" in said
    assert (codes == [0, 0]) == (lost == "whole")
    assert ("the KL refers to the warm-up of those" in said) == (lost != "whole")


LOST: dict[str, Callable[[Path], object]] = {
    "removed": shutil.rmtree,
    "damaged": lambda folder: (folder / "__0_0.distcp").write_bytes(bytes((folder / "__0_0.distcp").stat().st_size)),
    "whole": lambda folder: None,
}


def exit_codes(work: Path, name: str, *more: str) -> list[int | None]:
    ranks = go_on(work, name, *SHORT, *more)
    for rank in ranks:
        rank.join(60)
    return [rank.exitcode for rank in ranks]
