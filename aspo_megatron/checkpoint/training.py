"""The saved states of a run: RUN/checkpoints/step-000010 and so on, and going on from the latest good one."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from itertools import chain
from pathlib import Path

import torch.distributed as dist

from aspo_megatron.checkpoint import randomness
from aspo_megatron.checkpoint.integrity import Manifest, check_model, read_manifest, sync, verify_files
from aspo_megatron.checkpoint.piece_reader import check_common, read_index
from aspo_megatron.checkpoint.sidecar import read_json
from aspo_megatron.checkpoint.state import load_model, load_optimizer, model_shards, optimizer_shards
from aspo_megatron.checkpoint.writer import About, CheckpointWriter
from aspo_megatron.config import ParallelConfig, RunConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import CheckpointError
from aspo_megatron.models.family import Family
from aspo_megatron.parallel.exchange import from_leader, gather
from aspo_megatron.parallel.host_copies import HostCopies
from aspo_megatron.parallel.model import PolicyModel
from aspo_megatron.parallel.optimizer import Optimizer

STATE_FILE = "state.json"
START = "start"
"""The weights after the warm-up, which the KL loss refers to."""

_LATEST = "latest"


@dataclass(frozen=True)
class TrainerState:
    """Where the training loop stands after `step` steps.

    `asked`: problems taken from the stream, and used but for those that stand at `carried` (`rollout.cut_off`).
    `problems`: what the stream is made of, see `problems_digest`. `tokens` and `seconds` add up over resumed parts.
    """

    step: int
    asked: int
    tokens: int
    seconds: float
    heldout_before: float | None
    heldout_after: float | None
    problems: str
    carried: list[int] = field(default_factory=list)


def problems_digest(problems: list[Problem]) -> str:
    """A hash of the problems and their order."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(repr((problem.id, problem.prompt_ids, problem.answer)).encode())
    return digest.hexdigest()


def step_folder(run: Path, step: int) -> Path:
    """Where the state after a step is."""
    return run / "checkpoints" / f"step-{step:06d}"


def saved_steps(run: Path) -> list[int]:
    """Steps of which there is a state, the latest first."""
    folders = (run / "checkpoints").glob("step-*")
    return sorted((int(folder.name[5:]) for folder in folders if folder.name[5:].isdigit()), reverse=True)


class StateSaver:
    """Saves the state of a run. All methods are collectives. A save that fails costs a warning, not the run.

    Only a GPU without room for the largest tensor in fp32, as the optimizer's parts are put together, ends it.
    """

    def __init__(
        self, config: RunConfig, family: Family, model: PolicyModel, optimizer: Optimizer, warn: Callable[[str], None]
    ) -> None:
        self._config, self._model, self._optimizer, self._warn = config, model, optimizer, warn
        self._about = About(family, config.model.path, config.parallel)
        self._leads = dist.get_rank() == 0
        self._copies = HostCopies(model.topology.platform.device) if config.checkpoint.async_save else None
        self._pending: CheckpointWriter | None = None

    @property
    def writing(self) -> bool:
        """Whether a save is under way that this rank has not written its part of."""
        return self._pending is not None and not self._pending.is_written()

    @property
    def pending(self) -> bool:
        """Whether a save has begun that is not complete."""
        return self._pending is not None

    def save(self, state: TrainerState) -> None:
        """Begin to save, after the save before is complete. Without `checkpoint.async_save` it is complete at once.

        A state of this step that is there, such as the one that the run has gone on from, is not written again.
        """
        self.finish()
        folder = step_folder(self._config.output_dir, state.step)
        if from_leader(folder.exists()):
            if self._leads:  # a run may have been killed before it could point at its newest state
                self._tell(folder, self._publish(folder))
            return
        content = asdict(state) | {"optimizer": self._optimizer.counters(), "ranks": dist.get_world_size()}
        shared = {
            STATE_FILE: json.dumps(content, indent=1).encode(),
            "config.yaml": (self._config.output_dir / "config.yaml").read_bytes() if self._leads else b"",
        }
        own = {randomness.random_file(dist.get_rank()): randomness.capture()}
        shards = chain(model_shards(self._model), optimizer_shards(self._model, self._optimizer))
        self._pending = CheckpointWriter(folder, self._about)
        if self._copies is not None:
            self._copies.restart()
            self._optimizer.update_after(self._copies.fence)
        self._pending.begin(shards, shared, own, self._copies)
        if self._copies is None:
            self.finish()

    def finish(self) -> None:
        """Wait until the save that is under way is complete."""
        if self._pending is None:
            return
        folder = self._pending.folder
        error = self._pending.complete()
        self._pending = None
        if error is None and self._leads:
            error = self._publish(folder)
        self._tell(folder, error)

    def _tell(self, folder: Path, error: str | None) -> None:
        if error is not None:
            self._warn(f"warning: {folder} was not saved ({error}); the run goes on, older states are kept")

    def _publish(self, folder: Path) -> str | None:
        """Point at a complete state, then let the oldest go."""
        try:
            partial = folder.with_name(f"{_LATEST}.partial")
            partial.write_text(folder.name + "\n")
            sync(partial)
            os.replace(partial, folder.with_name(_LATEST))
            sync(folder.parent)
        except OSError as error:
            return f"{_LATEST}: {error.strerror}"
        for step in saved_steps(self._config.output_dir)[self._config.checkpoint.keep :]:
            old = step_folder(self._config.output_dir, step)
            gone = old.rename(old.with_name(old.name + ".removed"))  # never half of it under its name
            shutil.rmtree(gone, ignore_errors=True)
        return None


def save_start(config: RunConfig, family: Family, model: PolicyModel) -> None:
    """Keep the weights that a run starts with, if they are not there; a collective.

    Raises:
        CheckpointError: they cannot be written.
    """
    folder = config.output_dir / "checkpoints" / START
    if from_leader(folder.exists()):
        return
    writer = CheckpointWriter(folder, About(family, config.model.path, config.parallel))
    writer.begin(model_shards(model), {}, {})
    error = writer.complete()
    if error is not None:
        raise CheckpointError(f"{folder}: the starting weights cannot be kept ({error})")


def load_start(config: RunConfig, family: Family, model: PolicyModel) -> bool:
    """Read the weights that the run has started with; whether they are there and whole. A collective."""
    folder = config.output_dir / "checkpoints" / START
    if not from_leader(folder.exists()) or refusal(folder, family) is not None:
        return False
    load_model(model, folder)
    return True


def tidy(run: Path) -> None:
    """Remove what an ended run has left half-written. For the leader, before anything is saved."""
    for pattern in ("checkpoints/*.partial", "checkpoints/*.removed", "exports/*.partial", "*.partial"):
        for path in run.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink()


def find_state(config: RunConfig, family: Family, warn: Callable[[str], None]) -> Path | None:
    """The latest state of the run that is whole; None for a run without any. A collective.

    Every file's checksum is compared, which the ranks share. A state that is refused is set aside under another name.

    Raises:
        CheckpointError: there are states, and none can be used; says why.
    """
    refused: list[str] = []
    for step in from_leader(saved_steps(config.output_dir)):
        folder = step_folder(config.output_dir, step)
        reason = refusal(folder, family)
        if reason is None:
            if refused:
                warn(f"warning: {refused[-1]}; going on from {folder.name} instead")
                _set_aside(config.output_dir, step)
            return folder
        refused.append(reason)
    if refused:
        raise CheckpointError(
            f"no saved state of {config.output_dir} can be used: {'; '.join(refused)}; "
            f"remove {config.output_dir / 'checkpoints'} to begin again"
        )
    return None


def read_state(folder: Path) -> TrainerState:
    """Where the run stood.

    Raises:
        CheckpointError: not the state of a run.
    """
    content = read_json(folder / STATE_FILE)
    try:
        return TrainerState(**{name: content[name] for name in TrainerState.__dataclass_fields__ if name in content})
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / STATE_FILE}: not the state of a run ({error!r})") from error


def load_state(folder: Path, model: PolicyModel, optimizer: Optimizer, parallel: ParallelConfig) -> TrainerState:
    """Put model, optimizer and random states back. A collective.

    Under another layout the random states are left as the seed has made them: training draws from none of them.

    Raises:
        CheckpointError: a tensor is missing or of another shape.
    """
    load_model(model, folder)
    load_optimizer(model, optimizer, read_json(folder / STATE_FILE)["optimizer"], folder)
    if read_manifest(folder).layout == parallel.model_dump(mode="json"):
        randomness.restore(str(folder / randomness.random_file(dist.get_rank())))
    return read_state(folder)


def refusal(folder: Path, family: Family) -> str | None:
    """Why a checkpoint cannot be used, the same on all ranks, which share the reading. A collective."""
    found: tuple[Manifest | None, str | None] = (None, None)
    if dist.get_rank() == 0:
        try:
            manifest = read_manifest(folder)
            check_model(folder, manifest, family.hf_config, family.name)
            read_index(folder)
            check_common(folder)
            found = manifest, None
        except CheckpointError as error:
            found = None, str(error)
    manifest_found, reason = from_leader(found)
    if manifest_found is None:
        return reason
    own: str | None = None
    try:
        verify_files(folder, manifest_found, dist.get_rank(), dist.get_world_size())
    except CheckpointError as error:
        own = str(error)
    return next((reason for reason in gather(own) if reason), None)


def _set_aside(run: Path, step: int) -> None:
    """Rename the states after `step`: they were refused, and new ones are going to have their names."""
    if dist.get_rank() == 0:
        for later in saved_steps(run):
            if later > step:
                folder = step_folder(run, later)
                aside = folder.with_name(folder.name + ".refused")
                shutil.rmtree(aside, ignore_errors=True)
                folder.rename(aside)
    dist.barrier()
