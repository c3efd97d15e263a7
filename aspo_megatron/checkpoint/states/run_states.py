"""The saved states of a run: RUN/checkpoints/step-000010 and so on, and resuming from the latest good one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from itertools import chain
from pathlib import Path

import torch.distributed as dist

from aspo_megatron.checkpoint.states import rng_state
from aspo_megatron.checkpoint.states.folders import attempt, listed, publish, set_aside, step_folder
from aspo_megatron.checkpoint.states.sharded_state import (
    Sizes,
    load_model,
    load_optimizer,
    model_shards,
    optimizer_shards,
    wanted_weights,
)
from aspo_megatron.checkpoint.states.trainer_state import TrainerState, counters, read_state, state_refusal
from aspo_megatron.checkpoint.states.writer import CheckpointDescription, CheckpointWriter
from aspo_megatron.checkpoint.torch_dist.manifest import read_manifest
from aspo_megatron.checkpoint.torch_dist.tensor_names import OPTIMIZER
from aspo_megatron.config import ParallelConfig, RunConfig
from aspo_megatron.errors import CheckpointError
from aspo_megatron.folders import RUN_CONFIG, STATE_FILE
from aspo_megatron.foreign_text import one_line
from aspo_megatron.models.family import Family
from aspo_megatron.parallel.device.host_copies import HostCopies
from aspo_megatron.parallel.grid.exchange import from_leader, gather
from aspo_megatron.parallel.model.policy import PolicyModel
from aspo_megatron.parallel.update.optimizer import Optimizer


class StateSaver:
    """Saves the state of a run. All methods are collectives. A save that fails costs a warning, not the run.

    Only a GPU without room for the largest tensor in fp32, as the optimizer's parts are put together, ends it.
    """

    def __init__(
        self, config: RunConfig, family: Family, model: PolicyModel, optimizer: Optimizer, warn: Callable[[str], None]
    ) -> None:
        self._config, self._model, self._optimizer, self._warn = config, model, optimizer, warn
        self._description = CheckpointDescription(family, config.model.path, config.parallel)
        self._leads = dist.get_rank() == 0
        self._copies = HostCopies(model.topology.platform.device) if config.checkpoint.async_save else None
        self._pending: tuple[int, CheckpointWriter] | None = None
        self._whole: int | None = None
        self._weights: dict[str, Sizes] = {}

    @property
    def writing(self) -> bool:
        """Whether a save is under way that this rank has not written its part of."""
        return self._pending is not None and not self._pending[1].is_written()

    @property
    def pending(self) -> bool:
        """Whether a save has begun that is not complete."""
        return self._pending is not None

    def go_on_from(self, step: int) -> None:
        """Take the state after `step`, which was loaded, for the newest that is whole; later ones are gone."""
        self._publish(step)

    def save(self, state: TrainerState) -> None:
        """Begin to save, after the save before is complete. Without `checkpoint.async_save` it is complete at once.

        A state of this step that is there, such as the one that the run has gone on from, is not written again.
        """
        self.finish()
        folder = step_folder(self._config.output_dir, state.step)
        if from_leader(os.path.lexists(folder)) and not self._makes_way(folder, state.step):
            return
        content = asdict(state) | {"optimizer": self._optimizer.counters(), "ranks": dist.get_world_size()}
        shared: dict[str, bytes | Path] = {
            STATE_FILE: json.dumps(content, indent=1).encode(),
            RUN_CONFIG: self._config.output_dir / RUN_CONFIG,
        }
        own = {rng_state.random_file(dist.get_rank()): rng_state.capture()}
        shards = chain(model_shards(self._model), optimizer_shards(self._model, self._optimizer))
        writer = CheckpointWriter(folder, self._description)
        self._pending = state.step, writer
        if self._copies is not None:
            self._copies.restart()
            self._optimizer.update_after(self._copies.fence)
        writer.begin(shards, shared, own, self._copies, self._wanted())
        if self._copies is None:
            self.finish()

    def finish(self) -> None:
        """Wait until the save that is under way is complete."""
        if self._pending is None:
            return
        step, writer = self._pending
        error = writer.complete()
        self._pending = None
        if error is None:
            self._publish(step)
        else:
            self.cannot_save(step, error)

    def cannot_save(self, step: int, reason: str) -> None:
        """Say that there will be no state after `step`."""
        run = self._config.output_dir
        kept = "older states are kept" if listed(run)[0] else "and none was saved before"
        self._warn(one_line(f"warning: {step_folder(run, step)} was not saved ({reason}); the run continues, {kept}"))

    def _wanted(self) -> dict[str, Sizes]:
        """The tensors that this rank will look for when it loads the state."""
        self._weights = self._weights or wanted_weights(self._model)
        names = self._optimizer.state_names() if self._optimizer.counters()["updates"] else ()
        moments = {f"{OPTIMIZER}.{name}.{key}": size for name in names for key, size in self._weights.items()}
        return self._weights | moments

    def _makes_way(self, folder: Path, step: int) -> bool:
        """Whether what has the name of a state is none, and was given another, so that the state can be written."""
        if step == self._whole or state_refusal(self._config, self._description.family, folder) is None:
            self._publish(step)
            return False
        error = from_leader(attempt(lambda: set_aside(folder)) if self._leads else None)
        if error is not None:
            self.cannot_save(step, error)
        return error is None

    def _publish(self, step: int) -> None:
        """Point at a complete state, then let the oldest go."""
        self._whole = step
        run, keep = self._config.output_dir, self._config.checkpoint.keep
        lack = from_leader(publish(run, step, keep) if self._leads else None)
        if lack is not None:
            self._warn(one_line(f"warning: {step_folder(run, step)} is saved, but {lack}; the run continues"))


def find_state(
    config: RunConfig, family: Family, warn: Callable[[str], None], unusable: Mapping[Path, str] | None = None
) -> Path | None:
    """The latest state of the run that is whole; None for a run without any. A collective.

    Every file's checksum is compared, which the ranks share. A state that is refused is set aside under another name.

    Args:
        config: the run's.
        family: the model's.
        warn: is told which states are refused, and why.
        unusable: states that are refused already, and why.

    Raises:
        CheckpointError: there are states, and none can be used; says why.
    """
    refused: list[str] = []
    steps, error = from_leader(listed(config.output_dir) if dist.get_rank() == 0 else ([], None))
    if error is not None:
        raise CheckpointError(f"{error}, or remove {config.output_dir / 'checkpoints'} to begin again")
    for step in steps:
        folder = step_folder(config.output_dir, step)
        reason = (unusable or {}).get(folder) or state_refusal(config, family, folder)
        if reason is None:
            if refused:
                warn(one_line(f"warning: {refused[-1]}; resuming from {folder.name} instead"))
                _set_aside(config.output_dir, step)
            return folder
        refused.append(reason)
    if refused:
        raise CheckpointError(
            f"no saved state of {config.output_dir} can be used: {'; '.join(refused)}; "
            f"remove {config.output_dir / 'checkpoints'} to begin again"
        )
    return None


def load_state(folder: Path, model: PolicyModel, optimizer: Optimizer, parallel: ParallelConfig) -> TrainerState:
    """Put model, optimizer and random states back. A collective.

    Under another layout the random states are left as the seed has made them: training draws from none of them.

    Raises:
        CheckpointError: a tensor is missing or of another shape; on all ranks alike.
    """
    load_model(model, folder)
    load_optimizer(model, optimizer, counters(folder), folder)
    own: str | None = None
    try:
        if read_manifest(folder).layout == parallel.model_dump(mode="json"):
            rng_state.restore(str(folder / rng_state.random_file(dist.get_rank())))
    except CheckpointError as error:
        own = str(error)
    reason = next((reason for reason in gather(own) if reason), None)
    if reason is not None:
        raise CheckpointError(reason)
    return read_state(folder)


def load_latest(
    folder: Path,
    config: RunConfig,
    family: Family,
    model: PolicyModel,
    optimizer: Optimizer,
    warn: Callable[[str], None],
) -> tuple[Path, TrainerState]:
    """Load the state in `folder`, or if that cannot be done the one before, and so on; which it was. A collective.

    Raises:
        CheckpointError: none can be loaded.
    """
    unusable: dict[Path, str] = {}
    while True:
        try:
            return folder, load_state(folder, model, optimizer, config.parallel)
        except CheckpointError as error:
            unusable[folder] = str(error)
        found = find_state(config, family, warn, unusable)
        assert found is not None  # there are states, since one was refused
        folder = found
        if not counters(folder)["updates"]:  # nothing replaces what was loaded of the optimizer
            raise CheckpointError(f"{unusable.popitem()[1]}; it has been set aside; the same command now begins again")


def _set_aside(run: Path, step: int) -> None:
    """Rename the states after `step`: they were refused, and new ones are going to have their names.

    Raises:
        CheckpointError: one cannot be renamed; on all ranks alike.
    """
    error = None
    for later in listed(run)[0] if dist.get_rank() == 0 else ():
        if later > step and error is None:
            error = attempt(partial(set_aside, step_folder(run, later)))
    error = from_leader(error)
    if error is not None:
        raise CheckpointError(f"{error}: a state that cannot be used is in the way of the next; rename or remove it")
