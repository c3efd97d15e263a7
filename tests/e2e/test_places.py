"""Where a run stands decides its learning rate and what its KL refers to, however it got there.

Ranks are forked, as in test_resume.py, and die at a moment of the test's choice.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from functools import wraps
from math import ceil
from pathlib import Path
from typing import Any, Literal

import pytest
from forked import Server, fork_ranks, kill
from thorough import some_of

from .command import RunFolder, aspo
from .test_resume import rank

pytestmark = [pytest.mark.e2e, pytest.mark.distributed, pytest.mark.timeout(300)]

STEPS = 3
UPDATES = 3
"""In a step, as it is planned."""

SETTINGS = [
    f"train={{steps: {STEPS}, prompts_per_update: 2}}",
    "checkpoint={every: 1, async_save: false}",
    "eval={every: 0, max_problems: 2}",
    "log={tensorboard: false, samples_per_step: 0}",
]
DECAYING = ["optimizer.schedule=linear", "rollout.dynamic_sampling=refill", "rollout.max_asks=2"]

REWARDS = """
from zlib import crc32


def often_equal(problem, response):
    return 0.0 if crc32(problem.question.encode()) % 3 else float(crc32(response.encode()) % 2)


def always_equal(problem, response):
    return 1.0
"""

Moment = Literal["warm-up", "before step 1", "after a step"]


# ---- this happens in the server ----------------------------------------------------------------------------------


def run(work: Path, name: str, settings: list[str], dies: Moment | None = None, *, counts_made: bool = False) -> None:
    """Begin a run in one rank, or go on with it, to its end or to a moment at which it is killed."""
    from aspo_megatron.config.io import load_config
    from aspo_megatron.inputs.read import read_inputs
    from aspo_megatron.launch.run_folder import claimed

    os.chdir(work)
    config = load_config(Path("small.yaml"), [f"output_dir={name}", *SETTINGS, *settings])
    with claimed(config):
        (process,) = fork_ranks(1, mortal, config, read_inputs(config), work / f"{name}.log", dies, counts_made)
        process.join(120)
        code = process.exitcode
        kill([process])
    assert code == (0 if dies is None else -signal.SIGKILL), (work / f"{name}.log").read_text()


def mortal(config: Any, inputs: Any, log: Path, dies: Moment | None, counts_made: bool) -> None:
    """A rank that kills itself. `counts_made`: as in older versions, its states know of the updates made alone."""
    from aspo_megatron.parallel.update.optimizer import Optimizer
    from aspo_megatron.parallel.update.step import update
    from aspo_megatron.train import warmup
    from aspo_megatron.train.trainer import Trainer

    if counts_made:
        Optimizer.counters = lambda self: {"updates": self._updates, "scheduled": self._updates}  # type: ignore[method-assign]
    match dies:
        case "warm-up":
            warmup.update = dying(update, call=5)  # type: ignore[attr-defined]
        case "before step 1":
            Trainer.run = dying(Trainer.run, call=1)  # type: ignore[method-assign]
        case "after a step":
            # The state of the step is written, and the rank dies where it would have begun another.
            Trainer.step = dying(Trainer.step, call=2)  # type: ignore[method-assign]
    rank(config, inputs, log)


def dying(function: Callable[..., Any], call: int) -> Callable[..., Any]:
    """The function, which kills its process instead of this call of it."""
    calls = 0

    @wraps(function)
    def call_or_die(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)

    return call_or_die


# ---- the tests ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server(work: Path) -> Iterator[Server]:
    (work / "some_rewards.py").write_text(REWARDS)
    with Server() as started:
        yield started


@pytest.mark.thorough
def test_the_rate_follows_the_place_in_the_run(server: Server, work: Path) -> None:
    """In a run that is killed twice, and has a state of this version and of an older one to go on from."""
    name, settings = "rates", [*DECAYING, "reward.kind=some_rewards:often_equal"]
    server.run(run, work, name, settings, "after a step")
    server.run(run, work, name, settings, "after a step", counts_made=True)
    server.run(run, work, name, settings)
    made = []
    for step in range(1, STEPS + 1):
        figures = RunFolder(work / name).step(step)
        made.append(ceil(figures["groups/trained"] / 2))
        assert figures["updates/skipped"] == UPDATES - made[-1]
        assert figures["lr"] == pytest.approx(1e-3 * (1 - (step * UPDATES - 1) / (STEPS * UPDATES)))
    assert 0 < sum(made) < STEPS * UPDATES
    assert made[0] < UPDATES  # else a count of updates would have been right, too


@pytest.mark.thorough
def test_a_run_that_trains_on_nothing_says_so(server: Server, work: Path) -> None:
    done = aspo(
        "train",
        "small.yaml",
        "output_dir=nothing",
        *SETTINGS,
        *DECAYING,
        "reward.kind=some_rewards:always_equal",
        "train.steps=2",
        folder=work,
    )
    assert (done.code, done.stderr) == (0, "")
    why = "every prompt's rewards agree (rollout.dynamic_sampling=refill)"
    lines = [line for line in done.stdout.splitlines() if line.startswith("warning: ")]
    assert lines == [
        f"warning: step 1: no update was made, as there was nothing to learn from: {why}",
        f"warning: steps 1 to 2: no update was made, as there was nothing to learn from: {why}",
        f"warning: no step made an update, so the model is the one that the run began with: {why}",
    ]
    assert "trained model:     nothing/hf" in done.stdout.split(lines[-1])[1]
    assert [RunFolder(work / "nothing").step(step)["updates/skipped"] for step in (1, 2)] == [UPDATES, UPDATES]


@pytest.mark.parametrize("in_the_loss", some_of([0.0, 0.05], [0.05]))
def test_the_kl_refers_to_the_same_model_after_a_kill(server: Server, work: Path, in_the_loss: float) -> None:
    """With a warm-up: the model after it, whether or not the loss has a KL beside the reward."""
    kl = ["warmup={updates: 12, batch_size: 48, lr: 3e-3}", "shaping.kl_coef=0.1", f"loss.kl_coef={in_the_loss}"]
    whole, killed = f"whole-{in_the_loss}", f"killed-{in_the_loss}"
    server.run(run, work, whole, kl)
    moments: tuple[Moment, ...] = ("warm-up", "before step 1", "after a step", "after a step")
    for moment in moments:
        server.run(run, work, killed, kl, moment)
    server.run(run, work, killed, kl)
    for step in range(STEPS + 1):
        figures = RunFolder(work / whole).step(step)
        assert RunFolder(work / killed).step(step) == figures
    assert abs(figures["reward/kl"]) > 1e-3
    assert ("kl_ref" in figures) == bool(in_the_loss)
    model = "hf/model.safetensors"
    assert (work / killed / model).read_bytes() == (work / whole / model).read_bytes()
