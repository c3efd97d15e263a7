"""`aspo watch`: a run as it goes, in a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder; the run need not have begun.")],
    once: Annotated[
        bool, typer.Option("--once", help="Print the page once, as when the output is not a terminal.")
    ] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between updates.")] = 2.0,
) -> None:
    """Watch a run: step, speed, phases, alarms, curves of reward and clipping, last responses; until it has ended.

    It only reads the files in the run's folder, so the run may be on another machine that shares the disk.
    Ctrl-C quits; the run is not affected.

    \b
      aspo watch runs/quickstart
      aspo watch runs/quickstart --interval 30
      aspo watch runs/quickstart --once > page.txt
    """
    from aspo_megatron.metrics.console import shown_console
    from aspo_megatron.watch.follow import watch_run

    watch_run(run, shown_console(), interval, once=once)
