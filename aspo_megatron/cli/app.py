"""What the `aspo` command can do: its subcommands put together."""

from __future__ import annotations

from typing import Annotated

import typer

from aspo_megatron import __version__
from aspo_megatron.cli import (
    check,
    convert,
    doctor,
    eval,
    losses,
    plan,
    quantize,
    recipes,
    serve,
    slurm,
    table,
    train,
)
from aspo_megatron.cli.first_steps import completion, init, try_reward
from aspo_megatron.cli.views import compare, plot, samples, watch
from aspo_megatron.foreign_text import one_line
from aspo_megatron.streams import show

app = typer.Typer(
    help="Train language models with ASPO on Megatron-Core.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(asked: bool) -> None:
    if asked:
        from aspo_megatron.versions import NAMES, installed

        found = [f"{name.replace('python', 'Python')} {installed(name) or '(not installed)'}" for name in NAMES]
        show(f"aspo-megatron {__version__}")
        show(one_line(", ".join(found)))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", callback=_version, is_eager=True, help="Show the versions of aspo and its libraries."
        ),
    ] = False,
) -> None:
    pass


# In the order of the help, with what it says of each in a line of 80 columns.
app.command(short_help="List the recipes that come with aspo, or copy one.")(recipes.recipes)
app.command(short_help="Write a commented run file to edit.")(init.init)
app.command("try-reward", short_help="Try a reward on a few problems, and see what fails.")(try_reward.try_reward)
app.add_typer(convert.app, name="convert", short_help="Convert model folders to megatron checkpoints and back.")
app.command(help=train.HELP, short_help="Train a model; the same command resumes it.")(train.train)
app.command("eval", short_help="Evaluate a model: avg@K and pass@K with intervals.")(eval.evaluate)
app.command(short_help="Compare evaluated models with each other and the paper.")(table.table)
app.command(short_help="Prove on this machine that layouts give the same results.")(check.check)
app.command(short_help="Check that this machine, and a run, have all they need.")(doctor.doctor)
app.command(short_help="Start the SGLang servers of a run on this machine.")(serve.serve)
app.command(short_help="Make a Slurm batch script for a run, or submit it.")(slurm.slurm)
app.command(short_help="Plan a run: memory, traffic, time, the best layouts.")(plan.plan)
app.command(short_help="Quantise a model for servers, and say what that changes.")(quantize.quantize)
app.command(short_help="Draw the curves of one or several runs.")(plot.plot)
app.command(short_help="Tell whether runs that differ in one setting really differ.")(compare.compare)
app.command(short_help="Show sampled responses, token by token.")(samples.samples)
app.command(short_help="Watch a run in the terminal while it trains.")(watch.watch)
app.command(short_help="List the losses with their hyperparameters.")(losses.losses)
app.command(short_help="Print a Tab-completion script for bash, zsh or fish.")(completion.completion)
