"""`aspo losses`: the losses there are, and all about one."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aspo_megatron.foreign_text import one_line, safe
from aspo_megatron.streams import show

if TYPE_CHECKING:
    from aspo_megatron.plots.loss_words import LossWords

_WIDEST = 100


def losses(
    name: Annotated[
        str | None, typer.Argument(help="One loss, or your own package.module:Class. [default: all]")
    ] = None,
    picture: Annotated[
        Path | None,
        typer.Option(help="Also draw how tokens are weighed, by their ratio, into this file: .png, .pdf or .svg."),
    ] = None,
) -> None:
    """List the losses with their hyperparameters; or show all about one.

    With a name: formula and source, the settings that its source has and where sources disagree, the denominator, what
    happens to bad tokens, the hyperparameters, and a picture: how hard a token is pushed, by its ratio, computed by the
    loss's own code. docs/which_loss.md says which loss is for which question.

    \b
      aspo losses
      aspo losses cispo
      aspo losses cispo --picture cispo.png
    """
    from aspo_megatron import losses as registry
    from aspo_megatron.plots.loss_words import loss_words

    if name is not None:
        _show_all_about(loss_words(name))
    else:
        for each in registry.names():
            _show_in_short(loss_words(each))
        show("`aspo losses NAME` shows the formula, the source and a picture of one")
    if picture is not None:
        from aspo_megatron.plots.loss_gallery import draw_gallery

        draw_gallery(picture, [] if name is None else [name])
        show(f"picture: {one_line(picture)}")


def _show_in_short(words: LossWords) -> None:
    show(f"{one_line(words.name)}: {one_line(words.summary)}".removesuffix(": "))
    for each in words.hyperparameters:
        value = "(required)" if each.default is None else one_line(each.default)
        show(f"    loss.{each.key} = {value}  {one_line(each.description)}".rstrip())


def _show_all_about(words: LossWords) -> None:
    """Everything, in the terminal's width; a picture if the loss can be made without settings."""
    from rich.console import Console

    from aspo_megatron.metrics.console import print_text, shown_console
    from aspo_megatron.plots.loss_text import loss_picture

    console = shown_console(Console())
    _show_in_short(words)
    if words.formula:
        show("\nformula, where the gradient at a token is -A * w * grad log pi, and r = pi / pi_old:")
        for line in words.formula:
            show(f"    {one_line(line)}")
    if words.source:
        show(f"\nSource: {one_line(words.source)}")
    for paragraph in words.paragraphs:
        indented = "\n" in paragraph
        show("\n" + (safe(paragraph) if indented else _wrapped(one_line(paragraph), min(console.width, _WIDEST))))
    show("")
    required = [each.key for each in words.hyperparameters if each.default is None]
    if required:
        show(f"no picture: loss.{one_line(required[0])} has no default")
        return
    print_text(console, loss_picture(words.name, console.width, ascii_only=console.options.ascii_only))


def _wrapped(text: str, width: int) -> str:
    return textwrap.fill(text, width, break_long_words=False, break_on_hyphens=False)
