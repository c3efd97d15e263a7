"""Starts a run: with ranks of its own, or as one of those that torchrun or srun has started."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from aspo_megatron.config import RunConfig
from aspo_megatron.data.sources.read import silent
from aspo_megatron.errors import UserError
from aspo_megatron.folders import CHECKPOINTS, LATEST, LOGS, RUN_CONFIG
from aspo_megatron.foreign_text import counted, one_line
from aspo_megatron.launch import run_folder
from aspo_megatron.launch.launcher import run_ranks
from aspo_megatron.launch.outcome import Outcome
from aspo_megatron.launch.stop import StopRequest
from aspo_megatron.reading import read_text
from aspo_megatron.streams import say, show

_LONGEST_NAME = 256


def train_with_own_ranks(run: RunConfig, *, progress: bool = True) -> Outcome:
    """Read and check all input, then start the ranks on this machine; how they have ended.

    `progress`: show how far the run is.

    Raises:
        UserError: whatever cannot be used, named.
    """
    run_folder.refuse_foreign_folder(run)
    if _is_finished(run, show if progress else silent):
        return Outcome()
    with _problems_read(run, progress) as problems, run_folder.claimed(run):
        outcome = run_ranks(
            "aspo_megatron.train.main",
            [str(run.output_dir / RUN_CONFIG), *map(str, problems)],
            run.parallel.world_size,
            run.platform.threads_per_rank,
            log_dir=run.output_dir / LOGS,
            stops_by_itself=True,
            timeout_minutes=run.platform.timeout_minutes,
            progress=progress,
        )
    if outcome.code <= 128:
        return outcome
    return Outcome(f"{outcome.text}; {_left_at(run)}", outcome.code)


def train_as_rank(run: RunConfig, stop: StopRequest) -> int:
    """Train as one rank of several, whose number is in the environment; the exit code.

    Raises:
        UserError: whatever cannot be used, named.
    """
    from aspo_megatron.train import main

    leader = os.environ.get("RANK", "0") == "0"
    if leader:
        run_folder.refuse_foreign_folder(run)
    if run_folder.is_finished(run):
        return 0 if not leader or _is_finished(run, show) else 1
    inputs = main.read_here(run)
    with run_folder.claimed(run) if leader else contextlib.nullcontext():
        return main.train(run, inputs, stop)


@contextlib.contextmanager
def _problems_read(run: RunConfig, progress: bool) -> Iterator[list[Path]]:
    """Read and check all input; where the ranks find the problems, if they are told by a file."""
    from aspo_megatron import losses
    from aspo_megatron.inputs.handover import handed_over, reading_shown
    from aspo_megatron.inputs.machine import refuse_ranks_beyond
    from aspo_megatron.inputs.read import read_inputs
    from aspo_megatron.inputs.warmup_answers import check_imitations

    losses.build(run.loss.name, run.loss.hyperparameters)
    crowded = refuse_ranks_beyond(run)  # before problems are read, which may take minutes
    inputs = read_inputs(run, reading_shown(run.train.steps) if progress else silent)
    check_imitations(run, inputs.train, inputs.tokenizer, inputs.family.vocab_size)
    refuse_ranks_beyond(run, inputs.family, longest_prompt=inputs.train.longest_prompt)
    if crowded:
        say(f"warning: {crowded}")
    with handed_over(inputs.train, inputs.heldout) as path:
        del inputs  # the run may last for days
        yield [] if path is None else [path]


def _left_at(run: RunConfig) -> str:
    """Which state there is of a run that a signal has ended."""
    try:
        newest = read_text(run.output_dir / CHECKPOINTS / LATEST, UserError, _LONGEST_NAME).strip()
    except UserError:  # there is none, or their disk is gone
        newest = ""
    state = f"the last saved state is {one_line(newest)}" if newest else "no state is saved yet"
    return f"{state}; to resume: aspo train {one_line(run.output_dir / RUN_CONFIG)}"


def _is_finished(run: RunConfig, tell: Callable[[str], None]) -> bool:
    """Whether there is nothing left to train, which is told then."""
    if not run_folder.is_finished(run):
        return False
    done = f"has done its {counted(run.train.steps, 'step')}"
    tell(f"{one_line(run.output_dir)} {done}; to train further, raise train.steps")
    return True
