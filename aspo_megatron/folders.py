"""Names of the files in a run's folder and in a checkpoint, and which Hugging Face folder a path stands for."""

from __future__ import annotations

import errno
from pathlib import Path

# Files of a run's folder.
RUN_CONFIG = "config.yaml"
"""The resolved configuration; each saved state has a copy."""

RUN_LOCK = ".lock"
"""Says that a run writes there."""

METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"
CURVES_FILE = "curves.png"
WANDB_ID_FILE = "wandb-id"
SUMMARY_FILE = "summary.json"
"""Written last: it says that the run is finished."""

# Folders in a run's folder.
CHECKPOINTS = "checkpoints"
EVALUATIONS = "eval"
EXPORTS = "exports"
TRAINED_MODEL = "hf"
LOGS = "logs"
PROFILE = "profile"
SYNC = "sync"
TENSORBOARD = "tensorboard"
WANDB = "wandb"

# In CHECKPOINTS, beside a folder for each saved step.
START = "start"
"""The weights after the warm-up."""

LATEST = "latest"
"""A file with the name of the newest state's folder."""

# Files of a checkpoint.
MANIFEST = "manifest.json"
"""What makes a folder a complete checkpoint: the list of its files."""

SIDECAR = "hf"
"""What a checkpoint keeps of its Hugging Face folder, so that it can become one again."""

TENSOR_INDEX = ".metadata"
"""Where each tensor's bytes are: torch's own name for it."""

COMMON_FILE = "common.pt"
"""What megatron-core keeps besides tensors: nothing here."""

FORMAT_FILE = "metadata.json"
"""Which format the files have; megatron-core's own name for it."""

STATE_FILE = "state.json"
"""Of the state of a run: its counters, and what else is no tensor."""

ORIGIN_FILE = "origin.json"
"""Of START: which weights the warm-up began with."""

EXTRA_TENSORS = "extra.safetensors"
"""Tensors of the Hugging Face folder that the model does not use."""


# Of a Hugging Face folder.
WEIGHTS_INDEX = "model.safetensors.index.json"
"""Which file each tensor is in, where there are several."""


def step_name(step: int) -> str:
    """The name of what belongs to a step: the folder of a state or of an export, a file of evaluated responses."""
    return f"step-{step:06d}"


def packaged(name: str) -> Path:
    """A file or folder that the package brings. In a checkout it is a link to the one of the repository."""
    return (Path(__file__).parent / name).resolve()


def model_folder(path: Path) -> Path:
    """The Hugging Face folder that `path` stands for: the one inside, if it is a checkpoint; else itself."""
    return path / SIDECAR if _is_checkpoint(path) else path


def checkpoint_around(folder: Path) -> Path | None:
    """The checkpoint that a Hugging Face folder is inside, whose weights are its weights; None if it has its own."""
    return folder.parent if folder.name == SIDECAR and _is_checkpoint(folder.parent) else None


def _is_checkpoint(folder: Path) -> bool:
    """Whether a manifest is there. One that may not be looked at is an error; a name too long for any file is none."""
    try:
        return (folder / MANIFEST).is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise
