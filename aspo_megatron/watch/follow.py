"""Looks at runs again and again, until they have ended or somebody presses Ctrl-C."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console
from rich.live import Live

from aspo_megatron.metrics.console import print_text
from aspo_megatron.watch.page import page
from aspo_megatron.watch.run_view import mark_of, read_run

RESPONSES = 3
"""Of the last, shown."""


def follow(
    folders: Sequence[Path],
    look: Callable[[bool], bool],
    seconds: float,
) -> None:
    """Have someone look at runs when they have written something, and a last time at the end.

    Args:
        folders: the runs'.
        look: is told whether this is the last time; says whether all runs have ended.
        seconds: between two looks.
    """
    try:
        seen = None
        while True:
            if (mark := mark_of(folders)) != seen:
                seen = mark
                if look(False):
                    look(True)
                    return
            time.sleep(seconds)
    except KeyboardInterrupt:  # in the last look, too; a second one ends the command
        look(True)


def watch_run(folder: Path, console: Console, seconds: float, *, once: bool) -> None:
    """Show a run's page, kept up to date in a terminal until it has ended or Ctrl-C is pressed, and leave it there.

    Args:
        folder: the run's.
        console: see `shown_console`; once, if it is no terminal.
        seconds: between two looks.
        once: show it once, and do not stay.

    Raises:
        UserError: there is no such folder, or its metrics are no metrics.
    """
    view = read_run(folder, RESPONSES)
    ascii_only = console.options.ascii_only
    if console.is_terminal and not once:
        live = Live(console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False)
        try:
            with live:
                while not view.ended:
                    live.update(page(view, console.width, ascii_only=ascii_only), refresh=True)
                    time.sleep(seconds)
                    view = read_run(folder, RESPONSES)
        except KeyboardInterrupt:
            pass
    print_text(console, page(view, console.width, ascii_only=ascii_only))
