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
from aspo_megatron.cli.views import plot, samples, watch
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
        show(f"aspo-megatron {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


# In the order of the help.
app.command()(recipes.recipes)
app.add_typer(convert.app, name="convert")
app.command(help=train.HELP)(train.train)
app.command("eval")(eval.evaluate)
app.command()(table.table)
app.command()(check.check)
app.command()(doctor.doctor)
app.command()(serve.serve)
app.command()(slurm.slurm)
app.command()(plan.plan)
app.command()(quantize.quantize)
app.command()(plot.plot)
app.command()(samples.samples)
app.command()(watch.watch)
app.command()(losses.losses)
