"""A run from Python."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from aspo_megatron.api.configuration import load_config
from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.reading import read_json

if TYPE_CHECKING:
    from aspo_megatron.config import RunConfig


@dataclass(frozen=True)
class RunSummary:
    """What a finished run has in its summary.json.

    Attributes:
        heldout_before: Accuracy on held-out problems before the first step, 0 to 1; None without such problems.
        heldout_after: The same after the last step.
        heldout_problems: How many these were.
        seconds: Time that was spent, over all resumes.
        steps: Steps that were done.
        tokens: Tokens of all samples, each with its prompt.
    """

    heldout_before: float | None
    heldout_after: float | None
    heldout_problems: int
    seconds: float
    steps: int
    tokens: int


@dataclass(frozen=True)
class TrainResult:
    """How a run has ended.

    Attributes:
        output_dir: Its folder.
        exit: `finished`, or `stopped`: a signal has asked for that, and the same call goes on with the run.
        summary: None if it was stopped.
    """

    output_dir: Path
    exit: Literal["finished", "stopped"]
    summary: RunSummary | None

    @property
    def model(self) -> Path:
        """Hugging Face folder of the trained model, which a finished run has written."""
        from aspo_megatron.folders import TRAINED_MODEL

        return self.output_dir / TRAINED_MODEL


def train(
    config: str | os.PathLike[str] | Mapping[str, Any] | RunConfig,
    overrides: Sequence[str] = (),
    *,
    progress: bool = True,
) -> TrainResult:
    """Train a model, as `aspo train` does: check all that is read, start the ranks on this machine, wait for them.

    Everything is in the folder `output_dir` of the configuration, as after the command. A run that is there already is
    gone on with; one that is finished is not done again, and its result comes at once.

    The ranks are processes of their own, started anew: the script needs no `if __name__ == "__main__":`, and several
    runs may follow each other in one process. They import what this process can import, so that rewards and losses may
    be in files beside the script, but have nothing of what the script or notebook itself defines.

    In the main thread, SIGTERM and SIGUSR1 have the run save its state and end as `stopped`; Ctrl-C ends it at once. In
    another thread no signal is handled; ranks end with the thread that has called this.

    Args:
        config: See [`load_config`][aspo_megatron.api.load_config].
        overrides: Settings that replace those of `config`, e.g. `["train.steps=100", "output_dir=runs/mine"]`.
        progress: Show on stdout what the command shows: a live line in a terminal, elsewhere a line for each step.
            Warnings are on stderr in any case.

    Returns:
        How the run has ended, with its summary.

    Raises:
        ConfigError: A setting, file of problems, reward or loss that cannot be used; before any process is started.
        CheckpointError: A model folder that cannot be used; the same.
        UserError: Whatever else cannot be used, now or when the ranks find it out; also in a process that torchrun or
            srun has started as one of several, where `aspo train` is to be used.
        RunError: A rank has failed.
        KeyboardInterrupt: Ctrl-C, in the main thread. The run goes on from its last saved state.

    Example:
        ```python
        result = train("run.yaml", ["train.steps=100", "output_dir=runs/mine"])
        print(result.summary.heldout_after, result.model)
        ```
    """
    from aspo_megatron.api.outcomes import raise_if_failed
    from aspo_megatron.folders import SUMMARY_FILE
    from aspo_megatron.launch import rank
    from aspo_megatron.launch.run_folder import is_finished
    from aspo_megatron.train.start import train_with_own_ranks

    if rank.running_under_launcher(os.environ):
        raise UserError("torchrun or srun started this process and others: start the run with `aspo train` there")
    run = load_config(config, overrides)
    raise_if_failed(train_with_own_ranks(run, progress=progress))
    if not is_finished(run):
        return TrainResult(run.output_dir, "stopped", None)
    return TrainResult(run.output_dir, "finished", _summary(run.output_dir / SUMMARY_FILE))


def _summary(path: Path) -> RunSummary:
    content = read_json(path)
    try:
        return RunSummary(**{field.name: content[field.name] for field in fields(RunSummary)})
    except (KeyError, TypeError) as error:
        raise UserError(
            f"{one_line(path)}: not the summary of a run; remove it and run the same command again"
        ) from error
