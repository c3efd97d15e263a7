"""What one rank of `aspo train` does: `python -m aspo_megatron.train.main RUN/config.yaml [PROBLEMS]`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from aspo_megatron import losses
from aspo_megatron.checkpoint.fingerprint import Fingerprint
from aspo_megatron.config import RunConfig
from aspo_megatron.config.io import load_config
from aspo_megatron.data.sources.read import silent
from aspo_megatron.errors import CheckpointError
from aspo_megatron.folders import CHECKPOINTS, CURVES_FILE, METRICS_FILE, RUN_CONFIG, TRAINED_MODEL
from aspo_megatron.foreign_text import counted, one_line
from aspo_megatron.inputs.handover import reading_shown
from aspo_megatron.inputs.read import Inputs, open_weights, read_as_rank, starting_weights
from aspo_megatron.inputs.shared import SharedInputs, shared
from aspo_megatron.inputs.summary import summary_lines
from aspo_megatron.inputs.warmup_answers import check_imitations
from aspo_megatron.launch import garbage
from aspo_megatron.launch.stop import StopRequest
from aspo_megatron.metrics.noted_progress import NotedProgress
from aspo_megatron.metrics.progress import ProgressDisplay, progress_display
from aspo_megatron.metrics.record import Recorder
from aspo_megatron.metrics.wandb_run import WandbRun
from aspo_megatron.parallel.device.kernels import advice
from aspo_megatron.parallel.grid.exchange import from_leader
from aspo_megatron.parallel.grid.topology import Topology, process_grid
from aspo_megatron.rewards.workers.pool import RewardPool
from aspo_megatron.rollout.build import own_servers, rollout_engine, servers_elsewhere
from aspo_megatron.streams import show

if TYPE_CHECKING:
    from aspo_megatron.parallel.model.policy import PolicyModel


def train(config: RunConfig, inputs: Inputs, stop: StopRequest) -> int:
    """Join the process grid and run the training loop; the leader prints the result. Returns the exit code 0."""
    ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    workers = max(1, config.reward.workers // ranks_here)
    with (
        RewardPool(config.reward.model_copy(update={"workers": workers})) as rewards,
        process_grid(
            config.parallel, config.platform, config.seed, servers_elsewhere=servers_elsewhere(config)
        ) as topology,
    ):
        _train(config, inputs, topology, rewards, stop)
    return 0


def read_here(config: RunConfig, handed: Path | None = None) -> Inputs:
    """What this rank reads; problems only where it is the leader and they are not `handed` over."""
    leader = os.environ.get("RANK", "0") == "0"
    tell = reading_shown(config.train.steps) if leader else silent
    losses.build(config.loss.name, config.loss.hyperparameters)
    inputs = read_as_rank(config, leader=leader, handed=handed, tell=tell)
    if leader and handed is None:
        check_imitations(config, inputs.train, inputs.tokenizer, inputs.family.vocab_size)
    return inputs


def _train(config: RunConfig, read: Inputs, topology: Topology, rewards: RewardPool, stop: StopRequest) -> None:
    # megatron-core may be imported from here on: the platform is installed.
    from aspo_megatron.checkpoint.states.folders import tidy
    from aspo_megatron.checkpoint.states.run_states import find_state
    from aspo_megatron.checkpoint.states.trainer_state import read_state
    from aspo_megatron.train.outputs import RunOutputs
    from aspo_megatron.train.trainer import Trainer

    garbage.started()
    stopped = partial(_stopped, config, stop, topology)
    if stopped():
        return
    with ExitStack() as stack:
        display = progress_display(config.train.steps, leader=topology.is_leader)
        progress = stack.enter_context(NotedProgress(display, topology.rank_status))
        if topology.is_leader:
            for line in summary_lines(config, read, _devices(topology.platform.device)):
                progress.message(line)
        progress.phase("load model")
        again = (config.output_dir / METRICS_FILE).exists()
        if topology.is_leader:
            tidy(config.output_dir, progress.message)
        for line in advice(config.model, topology.platform.machine):
            progress.message(line)
        device = topology.platform.device
        servers = stack.enter_context(own_servers(config, device, progress.message))
        inputs = shared(read)
        state = find_state(config, inputs.family, progress.message)
        if state is None and again:
            progress.message(
                f"no state is saved in {one_line(config.output_dir / CHECKPOINTS)}; the run begins again at step 1"
            )
        weights = from_leader(starting_weights(config) if topology.is_leader else Fingerprint())
        model = _starting_model(config, inputs, topology, progress, weights, stopped, state)
        # The weights of a warm-up are kept; servers and an evaluation take minutes.
        if model is None or stopped():
            return
        progress.phase("start engine")
        engine = stack.enter_context(
            rollout_engine(config, inputs.family, inputs.tokenizer, device, servers, progress.message)
        )

        def record(after: int | None) -> Recorder:
            """What is there of later steps than `after` is made again, and all of it by a run that begins again."""
            wandb = None
            if config.log.wandb != "none":
                settings = config.model_dump(mode="json")
                wandb = WandbRun(config.output_dir, config.log.wandb, config.log.wandb_project, settings)
            kept = -1 if after is None and again else after
            return stack.enter_context(
                Recorder(config.output_dir, config.log.tensorboard, kept, wandb, progress.message)
            )

        outputs = RunOutputs(config, inputs, record if topology.is_leader else None, progress)
        trainer = Trainer(config, inputs, model, engine, rewards, outputs, stop)
        progress.stands_at(0 if state is None else read_state(state).step)
        summary = trainer.run(state, weights)
    if topology.is_leader:
        _print_result(config, summary)


def _devices(device: torch.device) -> str:
    """What the ranks compute on, for people."""
    return "CPUs" if device.type == "cpu" else f"GPUs of the kind {torch.cuda.get_device_name(device)}"


def _stopped(config: RunConfig, stop: StopRequest, topology: Topology) -> bool:
    """Whether the run is asked to stop before it has done anything, which is said then. A collective."""
    asked, _ = stop.agree(busy=False, device=topology.platform.device)
    if asked and topology.is_leader:
        _print_result(config, None)
    return asked


def _starting_model(
    config: RunConfig,
    inputs: SharedInputs,
    topology: Topology,
    progress: ProgressDisplay,
    weights: Fingerprint,
    stopped: Callable[[], bool],
    state: Path | None,
) -> PolicyModel | None:
    """The model as it was before the first step, as far as it is needed: for a run that begins, and for its KL.

    None if the warm-up was `stopped`.

    Raises:
        CheckpointError: the warm-up is lost that the KL refers to, and so are the weights that it began with.
    """
    from aspo_megatron.checkpoint.states.trainer_state import changed_weights, read_state
    from aspo_megatron.checkpoint.states.warmup_weights import load_start, save_start
    from aspo_megatron.parallel.model.policy import build_model
    from aspo_megatron.train.warmup import warm_up

    model = build_model(inputs.family, topology, config.model, open_weights(config, inputs.family))
    if not config.warmup.updates or (state is not None and not config.has_reference):
        return model
    if not load_start(config, inputs.family, model, weights.whole if state is None else "", progress.message):
        changed = changed_weights(config, read_state(state), weights) if state is not None else None
        if changed is not None:
            refers = "the KL refers to the warm-up of those, which must be repeated; give the folder that holds them"
            raise CheckpointError(f"{changed}, and {refers}")
        warmed_up = warm_up(model, config, inputs.train, inputs.tokenizer, progress, stopped)
        if warmed_up is not None and config.checkpoint.every:
            save_start(config, inputs.family, warmed_up, weights.whole, progress.message)
        return warmed_up
    return model


def _print_result(config: RunConfig, summary: dict[str, Any] | None) -> None:
    if summary is None:
        show(f"stopped as asked; to resume: aspo train {one_line(config.output_dir / RUN_CONFIG)}")
        return
    before, after = summary["heldout_before"], summary["heldout_after"]
    if before is not None and after is not None:
        show(
            f"held-out accuracy: {before:.1%} before, {after:.1%} after "
            f"({counted(summary['heldout_problems'], 'problem')}, {counted(summary['steps'], 'step')}, "
            f"{summary['seconds']:.0f} s)"
        )
    show(f"trained model:     {one_line(config.output_dir / TRAINED_MODEL)}")
    show(f"curves:            {one_line(config.output_dir / CURVES_FILE)}")


if __name__ == "__main__":
    asked_to_stop = StopRequest()
    settings = load_config(Path(sys.argv[1]))
    train(settings, read_here(settings, *map(Path, sys.argv[2:])), asked_to_stop)
