"""`aspo doctor`: whether what is installed fits together, and what a run would lack here."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from aspo_megatron.streams import show


def doctor(
    config: Annotated[
        str | None, typer.Argument(metavar="CONFIG", help="YAML file of a run; without it, one with all defaults.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that replace the file's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the lines as JSON.")] = False,
) -> None:
    """Check whether what is installed on this machine fits together, and say what to do if not (docs/doctor.md).

    Takes seconds, starts nothing on a GPU and changes nothing. Exit code 1 if the run could not work here, else 0.

    \b
      aspo doctor
      aspo doctor run.yaml parallel.tp=8
      srun --nodes=1 --gpus-per-node=8 aspo doctor run.yaml
    """
    from aspo_megatron.doctor import report
    from aspo_megatron.doctor.host import Host
    from aspo_megatron.doctor.requirements import read_requirements

    words = list(overrides or [])
    if config is not None and "=" in config and not os.path.exists(config):
        words, config = [config, *words], None
    host = Host()
    needs = read_requirements(None if config is None else Path(config), words, host)
    groups = report.examine(host, needs)
    show(json.dumps(report.as_json(groups, needs), indent=2) if as_json else report.text(groups, needs))
    raise typer.Exit(report.exit_code(groups))
