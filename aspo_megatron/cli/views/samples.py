"""`aspo samples`: what a model has answered, as text."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from aspo_megatron.foreign_text import one_line
from aspo_megatron.streams import show

_PRINTED, _ON_A_PAGE = 4, 40


class Only(StrEnum):
    """Which responses `--only` shows."""

    RIGHT = "right"
    WRONG = "wrong"
    CUT = "cut"


def samples(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="Run folder, or a file of responses such as RUN/eval/step-000020.jsonl."),
    ],
    step: Annotated[int | None, typer.Option(help="Only responses of this step.")] = None,
    problem: Annotated[str | None, typer.Option(help="Only responses to the problem with this id.")] = None,
    only: Annotated[Only | None, typer.Option(help="Only those that are right (reward 1), wrong, or cut.")] = None,
    containing: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only those with TEXT in question or response.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page here instead of printing: grouped by problem, with a filter.")
    ] = None,
    count: Annotated[
        int | None,
        typer.Option(
            min=1, help=f"At most this many: the last that match; by default {_PRINTED}, on a page {_ON_A_PAGE}."
        ),
    ] = None,
) -> None:
    """Show sampled responses with reward, advantage and finish reason; tokens coloured by their gradient's weight.

    Orange: pushed harder than REINFORCE would; blue: less; struck out: not at all. See docs/plots.md.

    \b
      aspo samples runs/quickstart --step 12
      aspo samples runs/quickstart --only wrong --containing "the answer is"
      aspo samples runs/quickstart --problem chain_sum-0-7 --count 20 --html samples.html
    """
    from aspo_megatron.metrics.console import shown_console
    from aspo_megatron.plots.page import write_page
    from aspo_megatron.plots.sample_file import read_samples
    from aspo_megatron.plots.sample_page import samples_page
    from aspo_megatron.plots.sample_view import print_samples

    most = count or (_PRINTED if html is None else _ON_A_PAGE)
    selection = read_samples(run, step, problem, most, None if only is None else only.value, containing)
    if html is None:
        print_samples(selection, shown_console(Console()))
    else:
        write_page(html, samples_page(f"Responses of {run}", selection))
        show(f"page: {one_line(html)}")
