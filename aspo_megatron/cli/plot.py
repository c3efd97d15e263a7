"""`aspo plot`: the curves of runs, as pictures and as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from aspo_megatron.errors import UserError
from aspo_megatron.files import refuse_link
from aspo_megatron.foreign_text import one_line
from aspo_megatron.streams import say, show


def plot(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Run folders, or metrics.jsonl files.")
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=RUN,RUN,...", help="Runs drawn as their mean, e.g. seeds; may be repeated."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write the picture here: .png, .pdf or .svg.")] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page here: picture, final figures, settings that differ.")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Print the curves in the terminal.")] = False,
    smooth: Annotated[
        int | None,
        typer.Option(min=1, help="Points in the moving mean, 1 for none; by default a fifteenth of 60 or more."),
    ] = None,
) -> None:
    """Draw runs: accuracy, reward, length, entropy, KL, repetition, clip ratios, mean ratio, gradient norm.

    Several runs share each panel. Without --out, --html and --text, RUN/curves.png and RUN/curves.html are written; of
    several runs, comparison.png and comparison.html in this folder.

    \b
      aspo plot runs/quickstart
      aspo plot runs/aspo runs/grpo --out comparison.png --text
      aspo plot --group aspo=runs/aspo-1,runs/aspo-2 --group grpo=runs/grpo-1,runs/grpo-2 --html comparison.html
    """
    from aspo_megatron.metrics.shown import shown_console
    from aspo_megatron.plots.curves import draw_figure, figure_png, write_figure
    from aspo_megatron.plots.page import plot_page, write_page
    from aspo_megatron.plots.series import read_series
    from aspo_megatron.plots.text import print_figure

    groups = _groups(group or [])
    series = read_series(runs or [], groups)
    for one in series:
        if len(set(one.last_steps)) > 1:
            ends = ", ".join(map(str, sorted(set(one.last_steps))))
            say(f"warning: group {one_line(one.name)}: its runs end at steps {ends}; drawn as far as all go")
    if out is None and html is None and not text:
        single = len(series) == 1 and len(series[0].folders) == 1
        stem = series[0].folders[0] / "curves" if single else Path("comparison")
        out, html = stem.with_suffix(".png"), stem.with_suffix(".html")
        for file in (out, html):
            refuse_link(file, "--out")
    if text:
        print_figure(series, shown_console(Console()), smooth)
    if out is None and html is None:
        return
    figure = draw_figure(series, smooth)
    if out is not None:
        write_figure(figure, out)
        show(f"picture: {one_line(out)}")
    if html is not None:
        write_page(html, plot_page(series, figure_png(figure)))
        show(f"page:    {one_line(html)}")


def _groups(options: Sequence[str]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for option in options:
        name, equals, members = option.partition("=")
        if not equals or not name or name in groups:
            problem = "given twice" if name in groups else "not NAME=RUN,RUN"
            raise UserError(f"--group {one_line(option)}: {problem}; e.g. --group aspo=runs/aspo-1,runs/aspo-2")
        groups[name] = [Path(member) for member in members.split(",") if member]
    return groups
