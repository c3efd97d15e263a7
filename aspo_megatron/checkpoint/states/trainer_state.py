"""What the state of a run says of its progress, and whether a run can go on from it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from aspo_megatron.checkpoint import checked_json
from aspo_megatron.checkpoint.fingerprint import Fingerprint
from aspo_megatron.checkpoint.refusal import refusal
from aspo_megatron.checkpoint.states import rng_state
from aspo_megatron.checkpoint.states.folders import step_folder
from aspo_megatron.checkpoint.torch_dist.manifest import Manifest
from aspo_megatron.config import RunConfig
from aspo_megatron.config.io import load_config
from aspo_megatron.errors import CheckpointError, ConfigError
from aspo_megatron.folders import RUN_CONFIG, STATE_FILE
from aspo_megatron.foreign_text import one_line
from aspo_megatron.launch.run_folder import differing_keys
from aspo_megatron.models.family import Family
from aspo_megatron.parallel.update.slots import MAIN_WEIGHT, MOMENTS
from aspo_megatron.reading import parse_json, read_bytes

_LAST_STEP = 10**16 - 1
"""The last that the name of a folder has room for."""

_MOST_SECONDS = 1e12


@dataclass(frozen=True)
class TrainerState:
    """Where the training loop stands after `step` steps.

    `asked`: problems taken from the stream, and used but for those that stand at `carried` (`rollout.cut_off`).
    `problems`: what the stream is made of, see `ProblemStore.digest`. `tokens` and `seconds` add up over resumed parts.
    `weights`, `weight_files`: the `Fingerprint` of those in `model.path` when the run began; empty if there were none,
    the second also in states of earlier versions.
    """

    step: int
    asked: int
    tokens: int
    seconds: float
    heldout_before: float | None
    heldout_after: float | None
    problems: str
    carried: list[int] = field(default_factory=list)
    weights: str = ""
    weight_files: dict[str, str] = field(default_factory=dict)


def read_state(folder: Path) -> TrainerState:
    """The progress of a run.

    Raises:
        CheckpointError: not the state of a run.
    """
    content = _content(folder)
    try:
        asked = checked_json.whole(content, "asked")
        before, after = (
            checked_json.number(content, name, 1) if content[name] is not None else None
            for name in ("heldout_before", "heldout_after")
        )
        return TrainerState(
            checked_json.whole(content, "step", _LAST_STEP),
            asked,
            checked_json.whole(content, "tokens"),
            checked_json.number(content, "seconds", _MOST_SECONDS),
            before,
            after,
            checked_json.text(content, "problems"),
            checked_json.wholes(content, "carried", max(asked - 1, 0)) if "carried" in content else [],
            checked_json.text(content, "weights") if "weights" in content else "",
            _weight_files(content),
        )
    except (ValueError, KeyError) as error:
        raise CheckpointError(f"{folder / STATE_FILE}: not the state of a run ({error})") from error


def _weight_files(content: dict[str, Any]) -> dict[str, str]:
    files = checked_json.mapping(content.get("weight_files", {}), "weight_files")
    return {name: checked_json.text(files, name) for name in files}


def _content(folder: Path) -> dict[str, Any]:
    path = folder / STATE_FILE
    content = parse_json(read_bytes(path, CheckpointError), f"{path}: cannot be read", CheckpointError)
    try:
        return checked_json.mapping(content, "it")
    except ValueError as error:
        raise CheckpointError(f"{path}: not the state of a run ({error})") from error


def state_refusal(config: RunConfig, family: Family, folder: Path) -> str | None:
    """Why the state in `folder` cannot be gone on from; a collective."""

    def optimizer_names(folder: Path, manifest: Manifest) -> tuple[str, ...]:
        same_layout = manifest.layout == config.parallel.model_dump(mode="json")
        ranks = range(config.parallel.world_size if same_layout else 0)
        for name in (STATE_FILE, RUN_CONFIG, *map(rng_state.random_file, ranks)):
            if name not in manifest.files:
                raise CheckpointError(f"{folder / name}: missing from the checkpoint")
        _check_place(config, folder)
        names = MOMENTS if config.model.dtype == "float32" else (*MOMENTS, MAIN_WEIGHT)
        return names if counters(folder)["updates"] else ()

    return refusal(folder, family, optimizer_names)


def _check_place(config: RunConfig, folder: Path) -> None:
    """See that a state is what its folder's name says, and of this run: such a folder may have been copied.

    Raises:
        CheckpointError: it is not.
    """
    step = read_state(folder).step
    if step_folder(config.output_dir, step).name != folder.name:
        raise CheckpointError(f"{folder}: is the state after step {step}, under the wrong name")
    try:
        saved = load_config(folder / RUN_CONFIG)
    except ConfigError:  # of another version
        return
    differing = differing_keys(saved, config)
    if differing:
        raise CheckpointError(f"{folder}: is of another run, which differs in {', '.join(differing)}")


def changed_weights(config: RunConfig, state: TrainerState, weights: Fingerprint) -> str | None:
    """That the weights in `model.path` are not those that the run began with, and which file is another one."""
    if not weights.whole or not state.weights:  # random ones, or of a run that has not noted them
        return None
    changed = f"model.path: {config.model.path} has other weights than those that the run began with"
    if not state.weight_files:
        return None if state.weights == weights.whole else changed
    before, now = state.weight_files, weights.files
    differing = [name for name in sorted(before | now) if before.get(name) != now.get(name)]
    if not differing:
        return None
    more = f" and {len(differing) - 1} more files differ" if len(differing) > 1 else " differs"
    return f"{changed} ({one_line(differing[0])}{more})"


def noted_weights(state: TrainerState, weights: Fingerprint) -> TrainerState:
    """The state, with what its run began with: the weights that are there now, unless it knows of others."""
    if state.weights not in ("", weights.whole) or state.weight_files:
        return state
    return replace(state, weights=weights.whole, weight_files=weights.files)


def counters(folder: Path) -> dict[str, int]:
    """The optimizer's counters in the state.

    Raises:
        CheckpointError: not the state of a run.
    """
    content = _content(folder)
    try:
        counters = checked_json.mapping(content.get("optimizer"), "optimizer")
        return {name: checked_json.whole(counters, name, _LAST_STEP) for name in ("updates", "scheduled")}
    except ValueError as error:
        raise CheckpointError(f"{folder / STATE_FILE}: not the state of a run ({error})") from error
