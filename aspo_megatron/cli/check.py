"""`aspo check`: a proof on this machine that layouts compute the same."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from aspo_megatron.errors import ConfigError
from aspo_megatron.files import write_whole
from aspo_megatron.foreign_text import one_line


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
    ranks: Annotated[int, typer.Option(min=1, help="Maximum number of ranks for the default layouts.")] = 4,
    more_ranks: Annotated[
        bool, typer.Option("--more-ranks", help="Allow layouts with more than four ranks per CPU core here.")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto: GPUs if there are any.")] = "auto",
    figure_tolerance: Annotated[float, typer.Option(help="For loss and gradient norm, relative.")] = 1e-5,
    gradient_tolerance: Annotated[float, typer.Option(help="Relative to a parameter's largest gradient.")] = 2e-5,
    weight_tolerance: Annotated[float, typer.Option(help="Absolute, after two updates.")] = 1e-6,
) -> None:
    """Prove on this machine that layouts give the same results: loss, norm, all gradients, weights after updates.

    Each row makes the same two ASPO updates in fp32, which clip gradients to half of their norm, and is compared with
    one process; a row that fails names the figures that differ, and the exit code is 1. Without --layouts: all that
    `aspo plan` can print for this model on two and on four ranks.
    Layouts that are too much for this machine are refused before any rank starts. Differences due to rounding grow
    with the model: for a large one, look at the Hugging Face row first.

    \b
      aspo check
      aspo check qwen3-moe
      aspo check models/SmolLM2-135M-Instruct --layouts tp=3 pp=2,cp=2
      aspo check --layouts dp=2,tp=2,pp=4 --more-ranks
    """
    from aspo_megatron.check.comparison import Tolerances
    from aspo_megatron.check.table import show_rows

    # `--layouts tp=2 cp=2`: an option takes one value, so the further ones arrive as arguments.
    chosen = [*(layouts or []), *(text for text in arguments or [] if "=" in text)]
    models = [text for text in arguments or [] if "=" not in text]
    if len(models) > 1:
        raise ConfigError(f"one model at a time, not {one_line(' and '.join(models))}")
    tolerances = Tolerances(figure_tolerance, gradient_tolerance, weight_tolerance)
    rows = show_rows(
        models[0] if models else "qwen2",
        chosen,
        ranks=ranks,
        loss=loss,
        aggregation=aggregation,
        device=device,
        tolerances=tolerances,
        more_ranks=more_ranks,
    )
    if json_file:
        write_whole(json_file, json.dumps([asdict(row) for row in rows], indent=2) + "\n")
    if not all(row.passed for row in rows):
        raise typer.Exit(1)
