"""Runs that many tests look at: each costs the start of several processes, so each is made once."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .command import MODULE, SETTINGS, Finished, RunFolder, aspo, finish, start


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which all commands run; it holds `small.yaml`."""
    folder = tmp_path_factory.mktemp("e2e")
    (folder / "small.yaml").write_text(SETTINGS)
    return folder


Train = Callable[..., RunFolder]


def begins(name: str) -> re.Pattern[str]:
    """What a run says first: what it is about to do, and a prompt as the model gets it."""
    return re.compile(
        r"model:     \S+ \(llama, 115,\d{3} parameters, float32(, random weights)?\)\n"
        r"problems:  \d+ to train on, \d+ held out; \d+ duplicates dropped\n"
        r"reward:    reasoning_gym; loss: aspo\n"
        r"steps:     \d+, each of 6 prompts x 4 responses \(embedded engine\) and 2 updates\n"
        r"ranks:     (1 on CPUs \(one process\)|2 on CPUs \((tp|dp)=2\))\n"
        rf"folder:    {name}\n"
        r"prompt:    of problem chain_sum-0-\d+, \d+ tokens, as the model receives it:\n"
        r"  \| \d [+-] \d =\n"
    )


@pytest.fixture(scope="session")
def train(work: Path) -> Train:
    """Runs `aspo train small.yaml` with overrides, which must succeed and say nothing on stderr."""

    def run(name: str, *overrides: str) -> RunFolder:
        done = aspo("train", "small.yaml", f"output_dir={name}", *overrides, folder=work)
        assert (done.code, done.stderr) == (0, "")
        assert begins(name).match(done.stdout), done.stdout
        assert f"trained model:     {name}/hf" in done.stdout
        return RunFolder(work / name)

    return run


@pytest.fixture(scope="session")
def first(train: Train) -> RunFolder:
    """From random weights, with a warm-up, in one process."""
    return train("first", "warmup={updates: 60, batch_size: 48, lr: 3e-3}", "train.steps=1")


PRETRAINED = ("model.path=first/hf", "model.init=pretrained")


@pytest.fixture(scope="session")
def tp1(train: Train, first: RunFolder) -> RunFolder:
    """On from the first run's checkpoint, in one process; greedy evaluation."""
    return train(
        "tp1", *PRETRAINED, "eval={samples: 1, pass_k: [1], sampling: {temperature: 0, max_response_tokens: 4}}"
    )


@pytest.fixture(scope="session")
def tp2(train: Train, first: RunFolder) -> RunFolder:
    """The same in two tensor-parallel ranks with sequence parallelism, old log-probs computed; sampled evaluation."""
    return train(
        "tp2",
        *PRETRAINED,
        "parallel={tp: 2, sequence_parallel: true}",
        "log.profile_step=2",
        "train.old_log_probs=recompute",
    )


@pytest.fixture(scope="session")
def dp2(train: Train, first: RunFolder) -> RunFolder:
    """The same in two data-parallel ranks, with the optimizer state split over them."""
    return train("dp2", *PRETRAINED, "parallel={dp: 2, distributed_optimizer: true}", "train.steps=1")


@pytest.fixture(scope="session")
def under_torchrun(work: Path, tp2: RunFolder) -> RunFolder:
    """The two tensor-parallel ranks once more, started by torchrun, from the configuration that the run has kept."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    argv = ["train", "tp2/config.yaml", "output_dir=torchrun"]
    done = finish(start([*torchrun, *MODULE[1:], *argv], work))
    assert done.code == 0, done.stderr
    return RunFolder(work / "torchrun")


@pytest.fixture(scope="session")
def evaluated(work: Path, tp2: RunFolder) -> Finished:
    """`aspo eval` of the two-rank run's checkpoint, by its own configuration, into `eval.jsonl`."""
    done = aspo("eval", "tp2/hf", "--config", "tp2/config.yaml", "--output", "eval.jsonl", folder=work)
    assert (done.code, done.stderr) == (0, "")
    prompt = r"prompt:    of problem chain_sum-0-\d+, \d+ tokens, as the model receives it:\n  \| \d [+-] \d =\n"
    assert re.match(prompt, done.stdout), done.stdout
    return done
