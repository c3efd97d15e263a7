"""The run folder: whose it is, whether a run can be gone on with in it, and that no two processes write to it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from aspo_megatron.config import RunConfig
from aspo_megatron.config.io import (
    DamagedConfigError,
    damaged_config,
    load_config,
    missing_config,
    refuse_cut,
    save_config,
)
from aspo_megatron.errors import ConfigError, UserError
from aspo_megatron.files import refuse_link, write_whole
from aspo_megatron.folders import (
    CHECKPOINTS,
    CURVES_FILE,
    EVALUATIONS,
    EXPORTS,
    LOGS,
    METRICS_FILE,
    PROFILE,
    RUN_CONFIG,
    RUN_LOCK,
    SAMPLES_FILE,
    SUMMARY_FILE,
    SYNC,
    TENSORBOARD,
    TRAINED_MODEL,
    WANDB,
    WANDB_ID_FILE,
)
from aspo_megatron.foreign_text import one_line
from aspo_megatron.reading import read_json, read_text

_MAY_CHANGE = (
    "output_dir",
    "platform",
    "parallel",
    "checkpoint",
    "log",
    "slurm",
    "rollout.servers",
    "eval.every",
    "eval.chunk",
    "train.steps",
    "train.max_tokens_per_micro_batch",
    "train.log_prob_chunk",
    "rollout.max_batch_tokens",
    "reward.workers",
    "reward.timeout_seconds",
    "model.path",  # the folder may have moved; a checkpoint of another model is refused when it is read
    "model.recompute",
    "model.reference",
    "model.kernels.layers",
    "model.kernels.fusion",
    "model.kernels.gradient_fusion",
    "model.kernels.grouped_gemm",
    "model.kernels.expert_fusion",
    "model.kernels.log_prob",
    "model.kernels.rotary",
    "parallel.overlap_grad_reduce",
    "optimizer.offload",
)
"""Keys (and sections) that a run may go on with other values of: none of them changes what is computed."""

_BEFORE_ALL = {RUN_LOCK, f"{RUN_CONFIG}.partial"}
_LINES = (METRICS_FILE, SAMPLES_FILE)
_DAMAGED = tuple(f"{name}.damaged" for name in _LINES)
_FILES = (RUN_CONFIG, RUN_LOCK, *_LINES, *_DAMAGED, SUMMARY_FILE, CURVES_FILE, WANDB_ID_FILE)
_FOLDERS = (EVALUATIONS, EXPORTS, TRAINED_MODEL, LOGS, PROFILE, SYNC, TENSORBOARD, WANDB)
"""What a run writes to, besides `checkpoints`."""

_REPLACED = (EXPORTS, TRAINED_MODEL, WANDB)
"""What is in these is never written to: it is replaced, by wandb's own links too."""

_CLAIM = "of-run"
"""In a folder that a link `checkpoints` leads to: the path of the run's folder."""
_LONGEST_CLAIM = 1 << 14

_LEFT = (CHECKPOINTS, METRICS_FILE, SUMMARY_FILE)
"""What tells the folder of a run from any other."""


def refuse_foreign_folder(run: RunConfig) -> None:
    """Refuse an output folder that holds anything but this same run. Changes nothing.

    Raises:
        ConfigError: names the folder, and the keys that differ.
    """
    folder = run.output_dir
    name = one_line(folder)
    try:
        if not folder.exists() or (folder.is_dir() and all(map(_is_before_all, folder.iterdir()))):
            return
        has_config = (folder / RUN_CONFIG).is_file()
    except OSError as error:
        raise ConfigError(f"output_dir: {name} cannot be read ({error.strerror})") from error
    if not has_config:
        raise _without_config(folder)
    try:
        saved = load_config(folder / RUN_CONFIG)
        refuse_cut(folder / RUN_CONFIG)
    except DamagedConfigError:
        raise
    except ConfigError as error:
        raise damaged_config(folder / RUN_CONFIG, str(error).splitlines()[0]) from error
    differing = differing_keys(saved, run)
    if differing:
        raise ConfigError(
            f"output_dir: {name} holds another run, which differs in {one_line(', '.join(differing))}; "
            "choose another folder or remove it"
        )


def _is_before_all(path: Path) -> bool:
    """Whether it may be there before a run begins."""
    empty = path.name == CHECKPOINTS and path.is_symlink() and path.is_dir() and not any(path.iterdir())
    return empty or path.name in _BEFORE_ALL


def refuse_links(folder: Path) -> None:
    """See that what a run writes to in its folder lies there. `checkpoints` may be a link to a larger disk.

    Raises:
        ConfigError: a file is a link or no regular file, or a folder is a link; `checkpoints` leads to a folder with
            something in it that is not this run's. Names it.
    """
    paths = [folder / name for name in (*_FILES, *_FOLDERS)]
    try:
        _refuse_foreign_states(folder)
        for inner in _FOLDERS:
            if (folder / inner).is_dir() and inner not in _REPLACED:
                paths += sorted((folder / inner).iterdir())
        for path in paths:
            refuse_link(path, "output_dir")
    except OSError as error:
        raise ConfigError(f"output_dir: {one_line(folder)} cannot be read ({error.strerror})") from error


def _refuse_foreign_states(folder: Path) -> None:
    """See that a link `checkpoints`, which may be of whoever made the folder, leads to no states of another run."""
    link = folder / CHECKPOINTS
    if not link.is_symlink() or not link.is_dir():  # to a disk that is not there: see `checkpoint.states.folders`
        return
    there = link.resolve()
    claim = there / _CLAIM
    if os.path.lexists(claim) and read_text(claim, ConfigError, _LONGEST_CLAIM).strip() == str(folder.resolve()):
        return
    if os.path.lexists(claim) or any(there.iterdir()):
        raise ConfigError(
            f"output_dir: {one_line(link)} leads to {one_line(there)}, which does not say that its files belong "
            f"to this run; if they do, write {one_line(folder.resolve())} into its file {_CLAIM}, otherwise remove "
            "the link"
        )


def _claim_states(folder: Path) -> None:
    """Say in the folder that a link `checkpoints` leads to whose states it holds."""
    link = folder / CHECKPOINTS
    if link.is_symlink() and link.is_dir() and not (link / _CLAIM).exists():
        write_whole(link / _CLAIM, f"{folder.resolve()}\n")


def _without_config(folder: Path) -> ConfigError:
    """What to say of an output folder that has something in it, but no configuration."""
    name = one_line(folder)
    if not folder.is_dir():
        return ConfigError(f"output_dir: {name} is a file; choose a folder")
    missing = missing_config(folder / RUN_CONFIG)
    if missing is not None:
        return missing
    if any((folder / name).exists() for name in _LEFT):
        left = f"holds what is left of a run, whose {RUN_CONFIG} is missing"
        return ConfigError(f"output_dir: {name} {left}; choose another folder or remove it")
    return ConfigError(f"output_dir: {name} holds files of something else; choose a new or an empty folder")


def differing_keys(saved: RunConfig, run: RunConfig) -> list[str]:
    """The keys that make `run` another run than `saved`."""
    free = _MAY_CHANGE if run.model.kernels.fp8 != "none" else (*_MAY_CHANGE, "model.kernels.fp8_recipe")
    found = _differing(saved.model_dump(mode="json"), run.model_dump(mode="json"))
    return [key for key in found if not _is_among(key, free)]


def changes_no_result(key: str) -> bool:
    """Whether a run may go on with another value of a key because that changes nothing of what is computed."""
    return _is_among(key, _MAY_CHANGE)


def _is_among(key: str, names: Sequence[str]) -> bool:
    """Whether it is one of them, or in a section that is."""
    return any(key == name or key.startswith(f"{name}.") for name in names)


def is_finished(run: RunConfig) -> bool:
    """Whether the run in the folder has done all that is asked for."""
    try:
        summary = read_json(run.output_dir / SUMMARY_FILE)
        return bool(summary["steps"] >= run.train.steps)
    except (UserError, KeyError, TypeError):  # none, or not whole: the end is done again
        return False


@contextmanager
def claimed(run: RunConfig) -> Iterator[None]:
    """The run folder, with the resolved configuration inside, for this process alone until it ends.

    Raises:
        ConfigError: the folder is another run's, is in use, or cannot be written.
    """
    refuse_foreign_folder(run)
    folder = run.output_dir
    refuse_links(folder)
    name = one_line(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / RUN_LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise ConfigError(f"output_dir: {name} cannot be written ({error.strerror})") from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the kernel takes it back when this process ends
        except BlockingIOError as error:
            use = "is in use by a run at this moment; wait for its end, or choose another folder"
            raise ConfigError(f"output_dir: {name} {use}") from error
        except OSError:  # a file system without locks
            pass
        _claim_states(folder)
        save_config(run, folder / RUN_CONFIG)
        yield
    finally:
        with suppress(OSError):  # a file system that has gone; the kernel takes the lock back all the same
            os.close(lock)


def _differing(one: Any, other: Any, name: str = "") -> Iterator[str]:
    """Dotted names of the leaves that are not the same."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        for key in sorted(one.keys() | other.keys()):
            yield from _differing(one.get(key), other.get(key), f"{name}.{key}" if name else str(key))
    elif one != other:
        yield name
