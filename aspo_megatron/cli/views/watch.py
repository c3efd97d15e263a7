"""`aspo watch`: a run as it goes, in a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def watch(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run's folder; it need not have begun.")],
    once: Annotated[bool, typer.Option("--once", help="Print the page once, as where output is no terminal.")] = False,
    interval: Annotated[float, typer.Option(min=0.1, help="Seconds between two looks.")] = 2.0,
) -> None:
    """Watch a run: step, speed, phases, alarms, curves of reward and clipping, last responses; until it has ended.

    It reads the files in the run's folder alone, so that the run may be on another machine that shares the disk.
    Ctrl-C leaves; the run is not touched.

    \b
      aspo watch runs/quickstart
      aspo watch runs/quickstart --interval 30
      aspo watch runs/quickstart --once > page.txt
    """
    from aspo_megatron.metrics.console import shown_console
    from aspo_megatron.watch.follow import watch_run

    watch_run(run, shown_console(), interval, once=once)
