"""`aspo table`: results of `aspo eval` beside each other and beside the published ones."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.streams import show


def table(
    results: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME=]RESULT...", help="Folders or scores files of `aspo eval`; NAME is for the model."
        ),
    ] = None,
    passed: Annotated[bool, typer.Option("--pass", help="Show pass@K instead of avg@K.")] = False,
    against: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Also show the others' paired differences from this model.")
    ] = None,
    published: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE,...",
            help="Published rows for models of these sizes: 1.5B, 4B, 8B, 30B, none. [default: 1.5B; of results "
            "without thinking 4B,8B,30B]",
        ),
    ] = None,
    thinking: Annotated[
        str | None, typer.Option(metavar="on|off", help="Leave out results, and published rows, of the other mode.")
    ] = None,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print Markdown, as when the output is not a terminal.")
    ] = False,
) -> None:
    """Compare models by benchmark, with confidence intervals, beside the published results of the paper.

    \b
      aspo table evals
      aspo table aspo=evals/aspo grpo=evals/grpo --against grpo
      aspo table evals --pass > passed.md
    """
    from aspo_megatron.evaluation import table as evaluation

    if not results:
        raise ConfigError("nothing to compare: give folders that `aspo eval` has written, e.g. evals")
    if thinking is not None and thinking not in evaluation.MODES:
        raise ConfigError(f"--thinking {one_line(thinking)}: must be on or off")
    mode = None if thinking is None else evaluation.MODES[thinking]
    found = evaluation.read_results(results)
    if mode is not None:
        found = evaluation.chosen(found, mode)
    bases = evaluation.usual_bases(found, mode) if published is None else _bases(published)
    tables: list[evaluation.ScoreTable] = [evaluation.comparison(found, bases, passed=passed, thinking=mode)]
    if against is not None:
        tables.append(evaluation.differences(found, against))
    for one in tables:
        if markdown or not sys.stdout.isatty():
            show(f"{one.markdown()}\n")
        else:
            show_table(one.head, one.rows, one.notes)


def _bases(published: str) -> list[str]:
    from aspo_megatron.evaluation.published import BASES

    bases = [] if published == "none" else published.split(",")
    for base in bases:
        if base not in BASES:
            raise ConfigError(f"--published {one_line(base)}: must be one of {', '.join(BASES)}, none")
    return bases


def show_table(head: list[str], rows: list[list[str]], notes: list[str]) -> None:
    """Draw a table in the terminal, its first column of names; `notes` stand below."""
    from rich.console import Console
    from rich.table import Table

    from aspo_megatron.metrics.console import print_text, shown_console, words

    console = shown_console(Console())
    drawn = Table()
    for number, name in enumerate(head):
        drawn.add_column(words(name), justify="left" if number == 0 else "right")
    for row in rows:
        drawn.add_row(*map(words, row))
    console.print(drawn)
    for note in notes:
        print_text(console, words(note, style="dim"), wrap=True)
