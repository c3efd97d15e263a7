"""The weights after the warm-up, which the KL refers to: RUN/checkpoints/start."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch.distributed as dist

from aspo_megatron.checkpoint import checked_json
from aspo_megatron.checkpoint.refusal import refusal
from aspo_megatron.checkpoint.states.folders import attempt, set_aside
from aspo_megatron.checkpoint.states.sharded_state import load_model, model_shards, wanted_weights
from aspo_megatron.checkpoint.states.writer import CheckpointDescription, CheckpointWriter
from aspo_megatron.config import RunConfig
from aspo_megatron.errors import CheckpointError
from aspo_megatron.files import to_disk
from aspo_megatron.folders import CHECKPOINTS, ORIGIN_FILE, START
from aspo_megatron.foreign_text import one_line
from aspo_megatron.models.family import Family
from aspo_megatron.parallel.grid.exchange import from_leader
from aspo_megatron.parallel.model.policy import PolicyModel
from aspo_megatron.reading import read_json


def save_start(
    config: RunConfig, family: Family, model: PolicyModel, weights: str, warn: Callable[[str], None]
) -> None:
    """Keep the weights that a run starts with, if they are not there; a collective. Failing costs a warning.

    Args:
        config: the run's.
        family: the model's.
        model: has the weights.
        weights: hash of those of `model.path`, which they were made of.
        warn: is told that they could not be kept.
    """
    folder = config.output_dir / CHECKPOINTS / START
    if from_leader(os.path.lexists(folder)):
        return
    writer = CheckpointWriter(folder, CheckpointDescription(family, config.model.path, config.parallel))
    origin = json.dumps({"weights": weights}, indent=1).encode()
    writer.begin(model_shards(model), {ORIGIN_FILE: origin}, {}, wanted=wanted_weights(model))
    error = writer.complete() or from_leader(attempt(lambda: to_disk(folder.parent)))
    if error is not None:
        then = "the run continues, and does the warm-up again if it is resumed"
        warn(f"warning: {one_line(folder)} was not saved ({one_line(error)}); {then}")


def load_start(
    config: RunConfig, family: Family, model: PolicyModel, weights: str, warn: Callable[[str], None]
) -> bool:
    """Read the weights that the run has started with; whether they are there and whole. A collective.

    Args:
        config: the run's.
        family: the model's.
        model: gets the weights.
        weights: hash of those that they must have been made of; "" if that does not matter any more.
        warn: is told that they are damaged, and set aside.

    Raises:
        CheckpointError: they were made of others, or are damaged and cannot be set aside.
    """
    folder = config.output_dir / CHECKPOINTS / START
    if not from_leader(os.path.lexists(folder)):
        return False
    reason = refusal(folder, family)
    made_of = ""
    if reason is None:
        made_of, reason = from_leader(_origin_or_reason(folder) if dist.get_rank() == 0 else ("", None))
    if reason is not None:
        error = from_leader(attempt(lambda: set_aside(folder)) if dist.get_rank() == 0 else None)
        if error is not None:
            raise CheckpointError(f"{reason}; and it cannot be renamed ({error})")
        warn(f"warning: {one_line(reason)}; the warm-up is done again")
        return False
    if weights and made_of and made_of != weights:
        raise CheckpointError(
            f"model.path: {config.model.path} no longer has the weights from which the warm-up made {folder}; "
            f"remove {folder} to begin with the current ones"
        )
    load_model(model, folder)
    return True


def _origin_or_reason(folder: Path) -> tuple[str, str | None]:
    try:
        return _origin(folder), None
    except CheckpointError as error:
        return "", str(error)


def _origin(folder: Path) -> str:
    """What is known of the weights before the warm-up; "" of runs that have not noted it.

    Raises:
        CheckpointError: it is damaged.
    """
    path = folder / ORIGIN_FILE
    if not path.is_file():
        return ""
    try:
        content = checked_json.mapping(read_json(path, CheckpointError), "it")
        return checked_json.text(content, "weights") if "weights" in content else ""
    except ValueError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
