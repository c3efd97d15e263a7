"""What the state of a run says of where it stood, and whether a run can go on from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from aspo_megatron.checkpoint import randomness
from aspo_megatron.checkpoint.folders import step_folder
from aspo_megatron.checkpoint.integrity import Manifest
from aspo_megatron.checkpoint.refusal import refusal
from aspo_megatron.checkpoint.sidecar import read_json
from aspo_megatron.config import RunConfig
from aspo_megatron.config_io import RUN_CONFIG, load_config
from aspo_megatron.errors import CheckpointError, ConfigError
from aspo_megatron.models.family import Family
from aspo_megatron.parallel.moments import MOMENTS
from aspo_megatron.parallel.optimizer import MAIN_WEIGHT
from aspo_megatron.run_folder import differing_keys

STATE_FILE = "state.json"


@dataclass(frozen=True)
class TrainerState:
    """Where the training loop stands after `step` steps.

    `asked`: problems taken from the stream, and used but for those that stand at `carried` (`rollout.cut_off`).
    `problems`: what the stream is made of, see `ProblemStore.digest`. `tokens` and `seconds` add up over resumed parts.
    `weights`: hash of those in `model.path` when the run began, see `weights_fingerprint`; "" if there were none.
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


def state_refusal(config: RunConfig, family: Family, folder: Path) -> str | None:
    """Why the state in `folder` cannot be gone on from; a collective."""

    def optimizer_names(folder: Path, manifest: Manifest) -> tuple[str, ...]:
        _check_place(config, folder)
        same_layout = manifest.layout == config.parallel.model_dump(mode="json")
        for rank in range(config.parallel.world_size if same_layout else 0):
            if randomness.random_file(rank) not in manifest.files:
                raise CheckpointError(f"{folder / randomness.random_file(rank)}: missing from the checkpoint")
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
        raise CheckpointError(f"{folder}: is the state after step {step}, under a name that is not its own")
    try:
        saved = load_config(folder / RUN_CONFIG)
    except ConfigError:  # of another version
        return
    differing = differing_keys(saved, config)
    if differing:
        raise CheckpointError(f"{folder}: is of another run, which differs in {', '.join(differing)}")


def changed_weights(config: RunConfig, state: TrainerState, weights: str) -> str | None:
    """That the weights in `model.path`, of which `weights` is the hash, are not those that the run began with."""
    if not weights or state.weights in ("", weights):  # random ones, or of a run that has not noted them
        return None
    return f"model.path: {config.model.path} has other weights than those that the run began with"


def counters(folder: Path) -> dict[str, int]:
    """The optimizer's counters in the state.

    Raises:
        CheckpointError: not the state of a run.
    """
    try:
        counters = read_json(folder / STATE_FILE)["optimizer"]
        return {name: int(counters[name]) for name in ("updates", "scheduled")}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / STATE_FILE}: not the state of a run ({error!r})") from error
