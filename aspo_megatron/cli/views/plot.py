"""`aspo plot`: the curves of runs, as pictures and as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from aspo_megatron.errors import UserError
from aspo_megatron.files import refuse_link
from aspo_megatron.foreign_text import one_line
from aspo_megatron.streams import say, show

if TYPE_CHECKING:
    from aspo_megatron.plots.series import Series


def plot(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Run folders, or metrics.jsonl files.")
    ] = None,
    group: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=RUN,RUN,...", help="Runs drawn as their mean, e.g. seeds; may be repeated."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Write the picture here: .png, .pdf or .svg; with .html, the page.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(help="Write a page here: pictures, final figures, settings that differ.")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Print the curves in the terminal.")] = False,
    smooth: Annotated[
        int | None,
        typer.Option(
            min=1, help="Points in the moving mean, 1 for none; by default a fifteenth of a curve of 60 or more."
        ),
    ] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Rewrite the page whenever a run has a new step, until all have ended.")
    ] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="With --follow: seconds between updates.")] = 5.0,
) -> None:
    """Draw runs: accuracy, reward, length, entropy, KL, repetition, clip ratios, mean ratio, gradient norm.

    Several runs share each panel. Without --out, --html and --text, RUN/curves.png and RUN/curves.html are written; for
    several runs, comparison.png and comparison.html in this folder.

    \b
      aspo plot runs/quickstart
      aspo plot runs/quickstart --html live.html --follow
      aspo plot runs/aspo runs/grpo --out comparison.png --text
      aspo plot --group aspo=runs/aspo-1,runs/aspo-2 --group grpo=runs/grpo-1,runs/grpo-2 --out comparison.html
    """
    from aspo_megatron.metrics.console import shown_console
    from aspo_megatron.plots.series import read_series
    from aspo_megatron.plots.text import print_figure
    from aspo_megatron.watch.live_page import follow_page

    groups = _groups(group or [])
    out, html = _page_by_its_name(out, html)
    if follow:
        follow_page(runs or [], groups, _followed_page(out, html, printed=text), smooth, interval)
        return
    series = read_series(runs or [], groups)
    _warn_of_ends(series)
    if out is None and html is None and not text:
        single = len(series) == 1 and len(series[0].folders) == 1
        stem = series[0].folders[0] / "curves" if single else Path("comparison")
        out, html = stem.with_suffix(".png"), stem.with_suffix(".html")
        for file in (out, html):
            refuse_link(file, "--out")
    if text:
        print_figure(series, shown_console(Console()), smooth)
    _write(series, smooth, out, html)


def _write(series: Sequence[Series], smooth: int | None, out: Path | None, html: Path | None) -> None:
    """Write the picture and the page, those that are asked for."""
    from aspo_megatron.plots.curves import draw_figure, draw_pictures, write_figure
    from aspo_megatron.plots.page import plot_page, write_page

    if out is not None:
        write_figure(draw_figure(series, smooth), out)
        show(f"picture: {one_line(out)}")
    if html is not None:
        write_page(html, plot_page(series, draw_pictures(series, smooth)))
        show(f"page:    {one_line(html)}")


def _page_by_its_name(out: Path | None, html: Path | None) -> tuple[Path | None, Path | None]:
    """The picture and the page that are asked for."""
    if out is None or out.suffix.lower() not in (".html", ".htm"):
        return out, html
    if html is not None:
        raise UserError(f"--out {one_line(out)}: --html already names the page; --out takes .png, .pdf or .svg")
    return None, out


def _followed_page(out: Path | None, html: Path | None, *, printed: bool) -> Path:
    if html is None or out is not None or printed:
        raise UserError("--follow writes only a page: give --html PAGE.html; in a terminal, use aspo watch RUN")
    return html


def _warn_of_ends(series: Sequence[Series]) -> None:
    """Say which groups are drawn in part."""
    for one in series:
        if len(set(one.last_steps)) > 1:
            ends = ", ".join(map(str, sorted(set(one.last_steps))))
            say(f"warning: group {one_line(one.name)}: its runs end at steps {ends}; drawn as far as all of them go")


def _groups(options: Sequence[str]) -> dict[str, list[Path]]:
    groups: dict[str, list[Path]] = {}
    for option in options:
        name, equals, members = option.partition("=")
        if not equals or not name or name in groups:
            problem = "given twice" if name in groups else "not NAME=RUN,RUN"
            raise UserError(f"--group {one_line(option)}: {problem}; e.g. --group aspo=runs/aspo-1,runs/aspo-2")
        groups[name] = [Path(member) for member in members.split(",") if member]
    return groups
