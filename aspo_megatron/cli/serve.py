"""`aspo serve`: SGLang servers on this machine, until they are ended."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aspo_megatron.config.io import load_config
from aspo_megatron.streams import show


def serve(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the run.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that replace the file's.")
    ] = None,
    addresses: Annotated[
        Path | None, typer.Option(help="Write the addresses here, one per line, once all servers answer.")
    ] = None,
    shared: Annotated[
        Path | None,
        typer.Option(
            help="Serve together with the machines that are given the same folder: it holds their shared key in `key`, "
            "their addresses in `addresses`, and their logs."
        ),
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Machines that serve together (--shared).")] = 1,
) -> None:
    """Start the SGLang servers of a run on this machine: rollout.servers.count of them, each with tp GPUs.

    Waits until they answer, restarts those that die, and ends them all on Ctrl-C, SIGTERM or its own death.
    Their output is in RUN/logs/server<N>.log. They require a key: that of rollout.servers.api_key_file, else one
    that is generated, in RUN/logs/servers.key.

    \b
      aspo serve run.yaml rollout.servers.count=8
      aspo train run.yaml rollout.engine=sglang rollout.servers.addresses=[http://127.0.0.1:30000,...]
      srun aspo serve run.yaml --shared FOLDER --nodes 2
    """
    from aspo_megatron.rollout.sglang.serving import SharedFolder, serve_run

    together = None if shared is None else SharedFolder(shared, nodes)
    run = load_config(config, [*(overrides or []), *(together.settings() if together else [])])
    serve_run(run, addresses, together, show)
