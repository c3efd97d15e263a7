"""`aspo compare`: whether runs that differ in one setting really differ."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aspo_megatron.cli.table import show_table
from aspo_megatron.errors import UserError
from aspo_megatron.files import refuse_link, write_whole
from aspo_megatron.foreign_text import one_line
from aspo_megatron.streams import show

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from aspo_megatron.comparison.page import Table
    from aspo_megatron.comparison.quantities import Quantities
    from aspo_megatron.comparison.runs import Comparison
    from aspo_megatron.comparison.sentences import Finding

_PAGE = Path("comparison.md")


def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Run folders, or a folder that holds run folders.")],
    by: Annotated[str, typer.Option(metavar="KEY", help="The setting that groups of runs differ in.")] = "loss.name",
    pair: Annotated[str, typer.Option(metavar="KEY", help="The setting that pairs runs of the groups.")] = "seed",
    against: Annotated[
        str | None,
        typer.Option(
            metavar="GROUP", help="Compare the others with this group. [default: grpo if it is there, else the first]"
        ),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="A further setting that may differ, such as a hyperparameter of one loss; may be repeated.",
        ),
    ] = None,
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Leave out pairs of which a run is missing or not finished.")
    ] = False,
    title: Annotated[
        str | None, typer.Option(help="Title of the page. [default: Comparison by KEY, that of --by]")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help=f"Write the page here, its pictures beside it. [default: {_PAGE} in this folder]"),
    ] = None,
) -> None:
    """Tell whether runs that differ in one setting really differ: a paired comparison over seeds.

    Runs are grouped by the loss and paired by the seed. For each quantity (held-out accuracy, reward, entropy, spikes)
    the page has means and paired differences with 95 % intervals, p-values of a sign-flip test, adjusted for the
    number of groups, and sentences which say higher or lower only where both bear it. Runs must be finished, and alike
    in all other settings. See docs/comparing.md.

    \b
      aspo compare runs/rivals
      aspo compare runs/rivals --against aspo --out page.md --title "ASPO and its rivals"
      aspo compare runs/rivals/aspo-1 runs/rivals/aspo-2 runs/rivals/grpo-1 runs/rivals/grpo-2
      aspo compare runs/rates --by optimizer.lr --against 1e-06
    """
    from aspo_megatron.comparison.quantities import measured
    from aspo_megatron.comparison.runs import read_comparison
    from aspo_megatron.comparison.sentences import findings

    page = _page_place(out)
    comparison = read_comparison(runs, by, pair, against, also or [], incomplete=incomplete)
    quantities = measured(comparison)
    found = findings(comparison, quantities)
    _show_findings(comparison, quantities, found)
    _write(comparison, quantities, found, page, title or f"Comparison by {comparison.by}")


def _page_place(out: Path | None) -> Path:
    if out is not None and out.suffix.lower() not in (".md", ".markdown"):
        raise UserError(f"--out {one_line(out)}: this is a page in Markdown; give it a name that ends in .md")
    page = _PAGE if out is None else out
    if out is None:
        refuse_link(page, "--out")
    return page


def _show_findings(comparison: Comparison, quantities: Quantities, found: Sequence[Finding]) -> None:
    from aspo_megatron.comparison.page import main_table, opening_text
    from aspo_megatron.comparison.sentences import summary
    from aspo_megatron.metrics.console import print_text, shown_console, words

    console = shown_console()
    for line in (opening_text(comparison), *summary(found, comparison)):
        print_text(console, words(line), wrap=sys.stdout.isatty())
    for reason in (*comparison.left_out, *quantities.left_out):
        print_text(console, words(f"left out: {reason}", style="dim"))
    if found:
        _show_table(main_table(found[0], comparison))


def _show_table(table: Table) -> None:
    if sys.stdout.isatty():
        show_table(list(table.head), [list(row) for row in table.rows], [])
    else:
        show(f"\n{table.markdown()}\n")


def _write(comparison: Comparison, quantities: Quantities, found: Sequence[Finding], page: Path, title: str) -> None:
    """Write the pictures, then the page that shows them."""
    from aspo_megatron.comparison import page as parts
    from aspo_megatron.comparison.collapses import alarms_section
    from aspo_megatron.comparison.picture import draw_differences, draw_token_weights
    from aspo_megatron.comparison.token_weights import token_weights
    from aspo_megatron.plots.curves import draw_figure

    accuracies = [finding for finding in found if finding.quantity in (quantities.final, quantities.mean)]
    weights = token_weights(comparison)
    curves = _picture(page, "curves", draw_figure(comparison.groups))
    names, forest, by_probability = comparison.names, None, None
    if accuracies:
        forest = _picture(page, "differences", draw_differences(accuracies, names, comparison.baseline))
    if weights.groups:
        by_probability = _picture(page, "weights", draw_token_weights(weights, names))
    sections = [
        parts.shown_section(found, quantities, comparison),
        parts.differences_section(found, comparison, forest),
        parts.means_section(found, comparison),
        parts.accuracies_section(quantities.final, comparison),
        parts.curves_section(curves),
        alarms_section(comparison),
        parts.weights_section(weights, comparison, by_probability),
        parts.help_section(comparison),
        parts.settings_section(comparison),
    ]
    write_whole(page, parts.page_text(title, parts.opening_text(comparison), sections))
    show(f"page:    {one_line(page)}")


def _picture(page: Path, name: str, figure: Figure) -> str:
    """Write a picture beside the page; returns its name there."""
    from aspo_megatron.plots.curves import write_figure

    path = page.with_name(f"{page.stem}-{name}.png")
    refuse_link(path, "--out")
    write_figure(figure, path)
    show(f"picture: {one_line(path)}")
    return path.name
