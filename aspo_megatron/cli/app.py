"""What the `aspo` command can do."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from aspo_megatron.cli import convert, doctor, eval, plan, plot, quantize, serve, slurm, table
from aspo_megatron.config import RunConfig
from aspo_megatron.config.io import load_config
from aspo_megatron.config.reference import help_text
from aspo_megatron.errors import ConfigError
from aspo_megatron.files import write_whole
from aspo_megatron.foreign_text import one_line
from aspo_megatron.launch import rank, run_folder
from aspo_megatron.launch.stop import StopRequest
from aspo_megatron.streams import show

app = typer.Typer(
    help="Train language models with ASPO on Megatron-Core.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(convert.app, name="convert")

_Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that replace the file's.")
]

_TRAIN_HELP = f"""Train a model: rollouts, rewards, policy updates, evaluation; at the end a Hugging Face checkpoint.

Starts its own ranks on this machine, or joins those of torchrun. RUN/ (`output_dir`) then holds config.yaml,
metrics.jsonl, samples.jsonl, tensorboard/, eval/, checkpoints/, curves.png, summary.json and hf/, the trained model.
A run that was stopped or killed goes on from its last checkpoint by the same command; SIGTERM or SIGUSR1 saves first.

\b
  aspo train examples/tiny/run.yaml
  aspo train run.yaml optimizer.lr=2e-6 loss.name=grpo output_dir=runs/grpo

Settings (docs/configuration.md explains them):

\b
{help_text()}
"""


@app.command(help=_TRAIN_HELP)
def train(
    context: typer.Context,
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the run.")],
    overrides: _Overrides = None,
    tiny: Annotated[
        bool, typer.Option("--tiny", help="A recipe on a CPU, its model scaled down; docs/planning.md.")
    ] = False,
    profile: Annotated[
        int | None, typer.Option(min=1, help="Step to profile: trace, summary and memory in RUN/profile/.")
    ] = None,
) -> None:
    """Check everything that can be checked, then train."""
    from aspo_megatron.launch.launcher import launch

    words = [*(overrides or []), *([] if profile is None else [f"log.profile_step={profile}"])]
    if tiny:
        from aspo_megatron.models.tiny import tiny_form

        run = tiny_form(config, words)
    else:
        run = load_config(config, words)
    if rank.running_under_launcher(os.environ):
        os.environ.update(rank.slurm_environment(os.environ))
        stop = context.find_object(StopRequest) or StopRequest()
        rank.rank_main(lambda: _train_as_rank(run, stop))

    run_folder.refuse_foreign_folder(run)
    if _is_finished(run):
        return
    with _problems_read(run) as problems, run_folder.claimed(run):
        code = launch(
            "aspo_megatron.train.main",
            [str(run.output_dir / "config.yaml"), *map(str, problems)],
            run.parallel.world_size,
            run.platform.threads_per_rank,
            log_dir=run.output_dir / "logs",
            stops_by_itself=True,
            timeout_minutes=run.platform.timeout_minutes,
        )
    raise typer.Exit(code)


app.command("eval")(eval.evaluate)
app.command()(table.table)


@app.command()
def check(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[MODEL]",
            help="Hugging Face folder, megatron checkpoint, or a small built-in model: qwen2 (the default), qwen3-moe.",
        ),
    ] = None,
    layouts: Annotated[
        list[str] | None, typer.Option("--layouts", metavar="LAYOUT...", help="Layouts to check, e.g. tp=2,sp cp=2.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the rows to this file.")] = None,
    loss: Annotated[str, typer.Option(help="Policy loss, see `aspo losses`.")] = "aspo",
    aggregation: Annotated[str, typer.Option(help="Aggregation of the loss.")] = "token-mean",
    ranks: Annotated[int, typer.Option(min=1, help="Most ranks to start for the default layouts.")] = 4,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: GPUs if there are any.")] = "auto",
    figure_tolerance: Annotated[float, typer.Option(help="Of loss and gradient norm, relative.")] = 1e-5,
    gradient_tolerance: Annotated[float, typer.Option(help="Relative to a parameter's largest gradient.")] = 2e-5,
    weight_tolerance: Annotated[float, typer.Option(help="Absolute, after two updates.")] = 1e-6,
) -> None:
    """Prove on this machine that layouts compute the same: loss, norm, all gradients, and weights after updates.

    Each row makes the same two ASPO updates in fp32, which clip gradients to half of their norm, and is compared with
    one process; a row that fails says by which figures, and the exit code is 1. Without --layouts: all that `aspo plan`
    can print of this model for two and for four ranks.
    Differences that are due to rounding grow with the model: for a large one, see the Hugging Face row first.

    \b
      aspo check
      aspo check qwen3-moe
      aspo check models/SmolLM2-135M-Instruct --layouts tp=3 pp=2,cp=2
    """
    from aspo_megatron.check import comparison
    from aspo_megatron.checkpoint.usable import usable_weights

    # `--layouts tp=2 cp=2`: an option takes one value, so the further ones arrive as arguments.
    chosen = [*(layouts or []), *(text for text in arguments or [] if "=" in text)]
    models = [text for text in arguments or [] if "=" not in text]
    if len(models) > 1:
        raise ConfigError(f"one model at a time, not {one_line(' and '.join(models))}")
    with tempfile.TemporaryDirectory(prefix="aspo-check-") as folder:
        work = Path(folder)
        name = models[0] if models else "qwen2"
        built_in = name in comparison.BUILT_IN and not os.path.exists(name)
        path = comparison.make_built_in(name, work / "built-in") if built_in else comparison.model_of(Path(name), work)
        family = usable_weights(path)
        chosen = chosen or comparison.layouts_for(family, ranks)
        rows = []
        show(f"{'layout':<24} {'loss':>10} {'grad norm':>10} {'gradients':>10} {'weights':>10}        worst gradient")
        for row in comparison.run_check(
            path,
            chosen,
            work,
            loss=loss,
            aggregation=aggregation,
            device=device,
            tolerances=comparison.Tolerances(figure_tolerance, gradient_tolerance, weight_tolerance),
        ):
            rows.append(row)
            weight = "-" if row.weight_difference is None else f"{row.weight_difference:.1e}"
            verdict = "pass" if row.passed else f"FAIL ({', '.join(row.failed)})"
            show(
                f"{one_line(row.layout):<24} {row.loss:>10.6f} {row.grad_norm:>10.6f} {row.gradient_difference:>10.1e} "
                f"{weight:>10}  {verdict}  {one_line(row.gradient_name)}"
            )
    if json_file:
        write_whole(json_file, json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    if not all(row.passed for row in rows):
        raise typer.Exit(1)


app.command()(doctor.doctor)
app.command()(serve.serve)
app.command()(slurm.slurm)
app.command()(plan.plan)
app.command()(quantize.quantize)
app.command()(plot.plot)
app.command()(plot.samples)


@app.command()
def losses(
    name: Annotated[
        str | None, typer.Argument(help="One loss, or package.module:Class, your own. [default: all]")
    ] = None,
) -> None:
    """List the losses with their hyperparameters."""
    from aspo_megatron import losses as registry

    for each in registry.names() if name is None else [name]:
        loss = registry.get(each)
        summary, *_ = (loss.__doc__ or "").strip().splitlines() or [""]
        show(f"{one_line(each)}: {one_line(summary)}".removesuffix(": "))
        for key, field in loss.model_fields.items():
            value = "(required)" if field.is_required() else field.default
            show(f"    loss.{key} = {one_line(value)}  {one_line(field.description or '')}".rstrip())


@contextlib.contextmanager
def _problems_read(run: RunConfig) -> Iterator[list[Path]]:
    """Read and check all input; where the ranks find the problems, if they are told by a file."""
    from aspo_megatron.inputs.handover import handed_over, reading_shown
    from aspo_megatron.inputs.imitations import check_imitations
    from aspo_megatron.inputs.read import read_inputs

    inputs = read_inputs(run, reading_shown(run.train.steps))
    check_imitations(run, inputs.train, inputs.tokenizer, inputs.family.vocab_size)
    with handed_over(inputs.train, inputs.heldout) as path:
        del inputs  # the run may last for days
        yield [] if path is None else [path]


def _train_as_rank(run: RunConfig, stop: StopRequest) -> int:
    """What `aspo train` does when torchrun or srun has started it as a rank."""
    from aspo_megatron.train import main

    leader = os.environ.get("RANK", "0") == "0"
    if leader:
        run_folder.refuse_foreign_folder(run)
    if run_folder.is_finished(run):
        return 0 if not leader or _is_finished(run) else 1
    inputs = main.read_here(run)
    with run_folder.claimed(run) if leader else contextlib.nullcontext():
        return main.train(run, inputs, stop)


def _is_finished(run: RunConfig) -> bool:
    """Whether there is nothing left to train, which is said then."""
    if not run_folder.is_finished(run):
        return False
    show(f"{one_line(run.output_dir)} has done its {run.train.steps} steps; to go on, raise train.steps")
    return True
