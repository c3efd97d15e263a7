"""`aspo train`: a run from its configuration."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from aspo_megatron.config.io import load_config
from aspo_megatron.config.reference import help_text
from aspo_megatron.launch import rank
from aspo_megatron.launch.outcome import told
from aspo_megatron.launch.stop import StopRequest

HELP = f"""Train a model: rollouts, rewards, policy updates, evaluation; at the end a Hugging Face checkpoint.

Starts its own ranks on this machine, or joins those of torchrun. RUN/ (`output_dir`) then holds config.yaml,
metrics.jsonl, samples.jsonl, tensorboard/, eval/, checkpoints/, curves.png, summary.json and hf/, the trained model.
A run that was stopped or killed resumes from its last checkpoint with the same command; SIGTERM or SIGUSR1 saves first.

\b
  aspo recipes tiny && aspo train tiny/run.yaml
  aspo train run.yaml optimizer.lr=2e-6 loss.name=grpo output_dir=runs/grpo

Settings (docs/configuration.md explains them):

\b
{help_text()}
"""


def train(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the run.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that replace the file's.")
    ] = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="A recipe on a CPU, its model scaled down; docs/planning.md.")
    ] = False,
    profile: Annotated[
        int | None, typer.Option(min=1, help="Step to profile: trace, summary and memory in RUN/profile/.")
    ] = None,
) -> None:
    """Check everything that can be checked, then train."""
    from aspo_megatron.train.start import train_as_rank, train_with_own_ranks

    words = [*(overrides or []), *([] if profile is None else [f"log.profile_step={profile}"])]
    if tiny:
        from aspo_megatron.models.tiny import tiny_form

        run = tiny_form(config, words)
    else:
        run = load_config(config, words)
    if rank.running_under_launcher(os.environ):
        os.environ.update(rank.slurm_environment(os.environ))
        stop = context.find_object(StopRequest) or StopRequest()
        rank.rank_main(lambda: train_as_rank(run, stop))
    raise typer.Exit(told(train_with_own_ranks(run)))
