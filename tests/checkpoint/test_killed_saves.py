"""Ranks that save without a pause, killed at many random moments: what is there afterwards is complete and the newest.

The weights and the moments of step N are all N, so that a mixture of two states, or moments that were dropped, show.
"""

from __future__ import annotations

import os
import random
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from forked import Server, fork_ranks, kill

from aspo_megatron.checkpoint.torch_dist.manifest import read_manifest
from aspo_megatron.checkpoint.torch_dist.verification import verify_files
from aspo_megatron.config.io import load_config, save_config
from aspo_megatron.models.family import read_family
from aspo_megatron.parallel.grid.topology import process_grid
from tiny_models import llama_folder

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(180)]

MOMENTS = 20
TIMED = 3


@pytest.mark.thorough
def test_killed_at_many_moments(tmp_path: Path) -> None:
    """Both ranks at once, or one of them and the other a little later."""
    folder = llama_folder(tmp_path / "llama", tied=True)
    settings = [
        f"output_dir={tmp_path / 'run'}",
        f"model.path={folder}",
        "data.train={kind: jsonl, path: none.jsonl}",
        "platform={device: cpu, threads_per_rank: 1}",
        "parallel={dp: 2, distributed_optimizer: true}",
        "checkpoint.keep=2",
    ]
    config = load_config(None, settings)
    config.output_dir.mkdir()
    save_config(config, config.output_dir / "config.yaml")
    with Server() as server:
        left = server.run(kill_again_and_again, settings, tmp_path)
    print("steps saved and what was left at each kill:", left)
    steps = [step for step, _ in left]
    assert steps == sorted(steps)
    # Moments that all lie between saves, or all in the first, would show nothing.
    assert sum("partial" in names or "removed" in names for _, names in left) >= MOMENTS // 4
    assert len(set(steps)) >= MOMENTS // 2


def kill_again_and_again(settings: list[str], work: Path) -> list[tuple[int, str]]:
    """The newest complete step after each kill, and the endings of what was half done.

    A kill comes during the first save or the second of its ranks. The moment in that save is a part of what a save
    takes on this machine, which the first ranks show.
    """
    chance = random.Random(11)
    run = load_config(None, settings).output_dir
    left: list[tuple[int, str]] = []
    save_takes = 0.0
    for number in range(MOMENTS):
        said = work / f"said-{number}"
        background = number % 2 == 0
        ranks = fork_ranks(2, save_on, [*settings, f"checkpoint.async_save={str(background).lower()}"], said)
        save_takes = save_takes or timed_saves(said, ranks)
        wait_for_saves(said, ranks, number // 2 % 2)
        time.sleep(chance.uniform(0.0, save_takes))
        kill(chance.choice([ranks, ranks[:1], ranks[1:]]))
        time.sleep(chance.uniform(0.0, 0.1))  # in which a rank that is left runs on, waits or fails
        kill(ranks)
        published = max(map(int, said.read_text().split()), default=0)
        endings = " ".join(sorted({path.suffix[1:] for path in (run / "checkpoints").iterdir() if path.suffix}))
        left.append((check_latest(run, published), endings))
    return left


def check_latest(run: Path, published: int) -> int:
    """`latest` names a complete state, that of the last step of which was said that it is saved, or a later one."""
    latest = run / "checkpoints" / "latest"
    folders = [path for path in (run / "checkpoints").glob("step-*") if path.name[5:].isdigit()]
    for folder in folders:  # whatever has the name of a state is one
        verify_files(folder, read_manifest(folder))
    if not latest.exists():
        assert published == 0
        return 0
    assert run / "checkpoints" / latest.read_text().strip() in folders
    step = int(latest.read_text().strip()[5:])
    assert step >= published
    return step


def save_on(settings: list[str], said: Path) -> None:
    """Go on from what is there, which must be whole, and save step after step until the end comes."""
    config = load_config(None, settings)
    with process_grid(config.parallel, config.platform, seed=1) as topology:
        from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder
        from aspo_megatron.checkpoint.states.folders import tidy
        from aspo_megatron.checkpoint.states.run_states import StateSaver, find_state, load_state
        from aspo_megatron.checkpoint.states.trainer_state import TrainerState
        from aspo_megatron.parallel.model.policy import build_model
        from aspo_megatron.parallel.update.optimizer import Optimizer

        family = read_family(config.model.path)
        with SafetensorsFolder(config.model.path) as tensors:
            model = build_model(family, topology, config.model, tensors)
        optimizer = Optimizer(model, config.optimizer, 20, config.parallel)
        if topology.is_leader:
            tidy(config.output_dir, pytest.fail)
        warnings: list[str] = []
        folder = find_state(config, family, warnings.append)
        step = 0
        if folder is not None:
            step = load_state(folder, model, optimizer, config.parallel).step
            assert all((parameter == step).all() for parameter in model.parameters())
            held = [value for _, _, value in optimizer.states() if value is not None]
            assert held
            assert all((value == step).all() for value in held)
        assert not warnings
        saver = StateSaver(config, family, model, optimizer, warnings.append)
        with said.with_suffix(f".{topology.rank}").open("w") as file:
            if topology.is_leader:
                os.rename(file.name, said)
            while True:
                step += 1
                fill(model, optimizer, step)
                saver.save(TrainerState(step, step, step, 0.0, None, None, ""))
                saver.finish()
                assert not warnings
                file.write(f"{step}\n")
                file.flush()


def fill(model: Any, optimizer: Any, step: int) -> None:
    """Weights and moments that are those of `step` alone."""
    for parameter in model.parameters():
        parameter.data.fill_(float(step))
    for name in optimizer.state_names():
        optimizer.load_states(
            name, {parameter: torch.full(parameter.shape, float(step)) for parameter in model.parameters()}
        )
    optimizer.load_counters({"updates": step, "scheduled": step})


def timed_saves(said: Path, ranks: list[BaseProcess]) -> float:
    """Seconds that a save takes, over a few of them."""
    wait_for_saves(said, ranks, 1)
    start = time.monotonic()
    wait_for_saves(said, ranks, 1 + TIMED)
    return (time.monotonic() - start) / TIMED


def wait_for_saves(said: Path, ranks: list[BaseProcess], number: int) -> None:
    """Until the ranks have begun, and then saved `number` times."""
    while not said.exists() or said.read_text().count("\n") < number:
        assert all(rank.is_alive() for rank in ranks), [rank.exitcode for rank in ranks]
        time.sleep(0.005)
