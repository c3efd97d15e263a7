"""Saves that meet a fault at each of their system calls in turn. Runs in ranks that were forked with the library.

The weights and moments of step N are all N, so that a mixture of two states, or moments that were dropped, show.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from checkpoint.test_killed_saves import fill
from forked import fork_ranks, kill

from aspo_megatron.checkpoint.torch_dist.manifest import read_manifest
from aspo_megatron.checkpoint.torch_dist.verification import verify_files
from aspo_megatron.config import RunConfig
from aspo_megatron.config.io import load_config, save_config
from aspo_megatron.models.family import read_family
from aspo_megatron.parallel.grid.exchange import gather
from aspo_megatron.parallel.grid.topology import process_grid
from benchmarks.soak.injection import Faults, read_log

GOOD = 2
"""Steps that are saved before the faults begin: as many as are kept."""


@dataclass(frozen=True)
class Swept:
    """What a sweep has seen. `calls`: that one undisturbed save makes; `wrong`: what did not hold, by call."""

    calls: int
    met: int
    wrong: list[str]


class Saving:
    """A model, its optimizer and its states; in a rank."""

    def __init__(self, config: RunConfig, topology: Any) -> None:
        from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder
        from aspo_megatron.parallel.model.policy import build_model
        from aspo_megatron.parallel.update.optimizer import Optimizer

        self.config, self.leads = config, topology.is_leader
        self.family = read_family(config.model.path)
        with SafetensorsFolder(config.model.path) as tensors:
            self.model = build_model(self.family, topology, config.model, tensors)
        self.optimizer = Optimizer(self.model, config.optimizer, 20, config.parallel)
        self.said: list[str] = []
        self.new_saver()

    def new_saver(self) -> None:
        from aspo_megatron.checkpoint.states.run_states import StateSaver

        self.said.clear()
        self.saver = StateSaver(self.config, self.family, self.model, self.optimizer, self.said.append)

    def save(self, step: int) -> None:
        """Begin the save of a step, and wait until its bytes were written or given up."""
        from aspo_megatron.checkpoint.states.trainer_state import TrainerState

        fill(self.model, self.optimizer, step)
        self.saver.save(TrainerState(step, step * 3, step * 7, 1.0, None, 0.5, "digest", [step]))
        while self.saver.writing:
            time.sleep(0.0005)

    def load(self) -> int:
        """The step that a run would go on from; every number of it is looked at. 0: none."""
        from aspo_megatron.checkpoint.states.run_states import find_state, load_state
        from aspo_megatron.checkpoint.states.trainer_state import TrainerState

        fill(self.model, self.optimizer, 99)
        folder = find_state(self.config, self.family, self.said.append)
        if folder is None:
            return 0
        state = load_state(folder, self.model, self.optimizer, self.config.parallel)
        step = int(folder.name[5:])
        assert state == TrainerState(step, step * 3, step * 7, 1.0, None, 0.5, "digest", [step]), state
        assert all((parameter == step).all() for parameter in self.model.parameters())
        held = [value for _, _, value in self.optimizer.states() if value is not None]
        assert held
        assert all((value == step).all() for value in held)
        return step


def settings_of(work: Path, model: Path, ranks: int, *, background: bool) -> list[str]:
    """A run of one rank or two that saves the model in `model`."""
    return [
        f"output_dir={work / 'run'}",
        f"model.path={model}",
        "data.train={kind: jsonl, path: none.jsonl}",
        "platform={device: cpu, threads_per_rank: 1}",
        f"parallel={{dp: {ranks}, distributed_optimizer: {str(ranks > 1).lower()}}}",
        f"checkpoint={{keep: {GOOD}, async_save: {str(background).lower()}}}",
    ]


def sweep(settings: list[str], ranks: int, victim: int, kind: str, times: int, every: int, told: Path) -> Swept:
    """Save again and again, with the fault at the first call of `victim`, the next time at another, to the last.

    Called in the preloaded process, which forks the ranks. `every`: the distance of those calls.
    """
    prepare(settings)
    processes = fork_ranks(ranks, sweep_in_rank, settings, victim, kind, times, every, told)
    try:
        join(processes)
    except AssertionError as error:
        return Swept(0, 0, [f"{told.read_text()}: the ranks do not come back: {error}"])
    calls, met, *wrong = told.read_text().splitlines()
    return Swept(int(calls), int(met), wrong)


def prepare(settings: list[str]) -> RunConfig:
    config = load_config(None, settings)
    shutil.rmtree(config.output_dir, ignore_errors=True)
    config.output_dir.mkdir(parents=True)
    save_config(config, config.output_dir / "config.yaml")
    return config


def join(processes: list[BaseProcess], seconds: float = 100.0) -> None:
    deadline = time.monotonic() + seconds
    for process in processes:
        process.join(max(0.0, deadline - time.monotonic()))
    codes = [process.exitcode for process in processes]
    kill(processes)
    assert codes == [0] * len(processes), codes


def sweep_in_rank(settings: list[str], victim: int, kind: str, times: int, every: int, told: Path) -> None:
    quiet(told.with_suffix(".log"))
    faults = Faults()
    config = load_config(None, settings)
    states, good = config.output_dir / "checkpoints", config.output_dir.with_name("good")
    met, wrong = 0, []
    with process_grid(config.parallel, config.platform, seed=1) as topology:
        saving = Saving(config, topology)
        for step in range(1, GOOD + 1):
            saving.save(step)
            saving.saver.finish()
        if saving.leads:
            shutil.rmtree(good, ignore_errors=True)
            shutil.copytree(states, good)
        faults.watch(config.output_dir)
        number, calls = 0, 0  # the first save is undisturbed, and shows how many calls there are
        while number <= calls:
            torch.distributed.barrier()
            if saving.leads:
                shutil.rmtree(states)
                shutil.copytree(good, states)
            torch.distributed.barrier()
            saving.new_saver()
            faults.arm(number, kind, times if number and topology.rank == victim else 0)
            told.write_text(f"call {number} of {calls}") if saving.leads else None
            problem = first_of_all(attempt(saving))
            happened = torch.tensor([faults.failed, faults.count])
            faults.disarm()
            torch.distributed.broadcast(happened, victim)
            failed, count = happened.tolist()
            calls = calls or count
            met += failed > 0
            problem = problem or first_of_all(afterwards(saving, failed > 0))
            if problem:
                wrong.append(f"call {number} of {calls}: {problem}")
            number += every if number else 1
        if saving.leads:
            told.write_text("\n".join([str(calls), str(met), *wrong]))


WARNINGS = {
    GOOD: re.compile(rf"warning: .*step-{GOOD + 1:06d} was not saved \(.+\); the run continues, older states are kept"),
    GOOD + 1: re.compile(rf"warning: .*step-{GOOD + 1:06d} is saved, but .+; the run continues"),
}
"""What is said of a save that met a fault, by the step that is left."""


def first_of_all(problem: str | None) -> str | None:
    """The first rank's that has one: what one rank has met, the others must not wait for."""
    return next((each for each in gather(problem) if each), None)


def attempt(saving: Saving) -> str | None:
    """Save a step; what was raised, which a run would end with."""
    try:
        saving.save(GOOD + 1)
        fill(saving.model, saving.optimizer, -1)  # training goes on
        saving.saver.finish()
    except BaseException as error:  # torch's CheckpointException is one
        return f"the save raised {first_line(error)}"
    return None


def afterwards(saving: Saving, disturbed: bool) -> str | None:
    """What does not hold after a save that may have met a fault: the first thing, the same on all ranks."""
    warned = list(saving.said)
    try:
        found = saving.load()
        if found not in (GOOD, GOOD + 1):
            return f"step {found} is what is left; {warned}"
        if warned and not (disturbed and len(warned) == 1 and WARNINGS[found].fullmatch(warned[0])):
            return f"step {found} is left, and what was said is {warned}"
        if found == GOOD and not warned:
            return "the state is not there, and nothing was said"
        if saving.said[len(warned) :]:
            return f"a state was refused: {saving.said[len(warned) :]}"
        check_folder(saving.config.output_dir)
        saving.new_saver()
        saving.save(GOOD + 2)
        saving.saver.finish()
        if saving.said:
            return f"the save after it: {saving.said}"
        if (found := saving.load()) != GOOD + 2:
            return f"the save after it: step {found} is what is left"
        check_folder(saving.config.output_dir)
        check_nothing_left(saving.config.output_dir)
    except BaseException as error:
        return f"{first_line(error)} (warned: {warned})"
    return None


def quiet(log: Path) -> None:
    """What this process prints goes to a file."""
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:200]}"


def check_folder(run: Path) -> int:
    """Whatever has the name of a state is whole, and `latest` names one; its step."""
    states = run / "checkpoints"
    folders = [path for path in states.glob("step-*") if path.name[5:].isdigit()]
    for folder in folders:
        verify_files(folder, read_manifest(folder))
    named = (states / "latest").read_text().strip()
    assert states / named in folders, f"latest names {named}"
    return int(named[5:])


def check_nothing_left(run: Path) -> None:
    """Once a later save has worked, nothing of an earlier one is there but whole states."""
    names = {path.name for path in (run / "checkpoints").iterdir()}
    left = {name for name in names if not (name == "latest" or (name.startswith("step-") and name[5:].isdigit()))}
    assert not left, f"left: {sorted(left)}"


# ---- kills -----------------------------------------------------------------------------------------------------


def sweep_kills(settings: list[str], ranks: int, victim: int, kind: str, every: int) -> Swept:
    """Fork ranks again and again that go on from what is there and save once; `victim` is killed at a call of it."""
    config = prepare(settings)
    log, good = config.output_dir.with_name("calls.log"), config.output_dir.with_name("good")
    join(fork_ranks(ranks, save_and_die, settings, victim, "none", 0, log))
    calls = [call.number for call in read_log(log) if call.rank == str(victim)]
    shutil.rmtree(good, ignore_errors=True)
    shutil.copytree(config.output_dir, good)
    met, wrong = 0, []
    for number in range(1, len(calls) + 1, every):
        shutil.rmtree(config.output_dir)
        shutil.copytree(good, config.output_dir)
        log.unlink(missing_ok=True)
        processes = fork_ranks(ranks, save_and_die, settings, victim, kind, number, log)
        processes[victim].join(60)
        killed = processes[victim].exitcode == -signal.SIGKILL
        time.sleep(0.02 * killed)  # in which a rank that is left runs on, waits or fails
        if not killed:
            join(processes)
        kill(processes)
        met += killed
        try:
            check_folder(config.output_dir)
            join(fork_ranks(ranks, go_on_after, settings))
        except Exception as error:
            name = next((c.name for c in read_log(log) if c.rank == str(victim) and c.number == number), "?")
            wrong.append(f"call {number} of {len(calls)} ({name}): {first_line(error)}")
    return Swept(len(calls), met, wrong)


def save_and_die(settings: list[str], victim: int, kind: str, number: int, log: Path) -> None:
    """Go on from what is there, or save steps 1 and 2; then the save in which the kill comes."""
    quiet(log.with_suffix(".said"))
    config = load_config(None, settings)
    with process_grid(config.parallel, config.platform, seed=1) as topology:
        saving = Saving(config, topology)
        step = saving.load()
        while step < GOOD:
            step += 1
            saving.save(step)
            saving.saver.finish()
        faults = Faults()
        faults.name(topology.rank)
        faults.log(log)
        faults.watch(config.output_dir)
        if topology.rank == victim:
            faults.arm(number, kind, 1)
        saving.save(step + 1)
        saving.saver.finish()
        faults.disarm()
        faults.log(None)
        assert not saving.said, saving.said
        if number == 0 and topology.is_leader:  # back to where the faults begin
            shutil.rmtree(config.output_dir / "checkpoints")
        torch.distributed.barrier()
        if number == 0:
            saving.new_saver()
            for step in range(1, GOOD + 1):
                saving.save(step)
                saving.saver.finish()


def go_on_after(settings: list[str]) -> None:
    """What is there after a kill is whole, and saves work again."""
    config = load_config(None, settings)
    quiet(config.output_dir.with_name("go_on.said"))
    with process_grid(config.parallel, config.platform, seed=1) as topology:
        saving = Saving(config, topology)
        step = saving.load()
        assert step in (GOOD, GOOD + 1), step
        saving.save(step + 1)
        saving.saver.finish()
        assert not saving.said, saving.said
        assert saving.load() == step + 1
        check_nothing_left(config.output_dir)
