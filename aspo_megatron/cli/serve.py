"""`aspo serve`: SGLang servers on this machine, until they are ended."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from aspo_megatron.config.io import load_config
from aspo_megatron.files import plain_errors
from aspo_megatron.foreign_text import one_line
from aspo_megatron.reading import read_text
from aspo_megatron.streams import show

_ROUND_SECONDS = 5.0


def serve(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="YAML file of the run.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that replace the file's.")
    ] = None,
    addresses: Annotated[
        Path | None, typer.Option(help="Write the addresses here, a line each, once all servers answer.")
    ] = None,
    shared: Annotated[
        Path | None,
        typer.Option(
            help="Serve with the machines that are given the same folder: it has their common key in `key`, and gets "
            "their addresses in `addresses`, and their logs."
        ),
    ] = None,
    nodes: Annotated[int, typer.Option(min=1, help="Machines that serve together (--shared).")] = 1,
) -> None:
    """Start the SGLang servers of a run on this machine: rollout.servers.count of them, each with tp GPUs.

    Waits until they answer, starts those again that die, and ends them all with Ctrl-C, SIGTERM or its own death.
    Their output is in RUN/logs/server<N>.log. They ask for a key: that of rollout.servers.api_key_file, else one that
    is made, in RUN/logs/servers.key.

    \b
      aspo serve run.yaml rollout.servers.count=8
      aspo train run.yaml rollout.engine=sglang rollout.servers.addresses=[http://127.0.0.1:30000,...]
      srun aspo serve run.yaml --shared FOLDER --nodes 2
    """
    from aspo_megatron.checkpoint.usable import usable_model, usable_weights
    from aspo_megatron.launch.run_folder import refuse_links
    from aspo_megatron.models.folder_files import SERVER_FILES, refuse_marked_files
    from aspo_megatron.parallel.device.platform import choose_platform
    from aspo_megatron.rollout.sglang.local_servers import LocalServers, ServedModel

    words = list(overrides or [])
    if shared is not None:
        node = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
        words += [f"rollout.servers.host={node}", f"rollout.servers.api_key_file={shared / 'key'}"]
        words += [f"output_dir={shared / node}"]
        addresses = shared / f"addresses-{node}"
    run = load_config(config, words)
    refuse_links(run.output_dir)
    served = ServedModel.of(run.model)
    (usable_model if served.random else usable_weights)(run.model.path)
    refuse_marked_files(run.model.path, SERVER_FILES)
    settings = run.rollout.servers.model_copy(update={"addresses": ()})
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: ended.set())
    log_dir = run.output_dir / "logs"
    device = choose_platform(run.platform.device, local_rank=0, threads=1).device
    with LocalServers(settings, served, device.type, log_dir, show) as servers:
        show(f"starting {settings.count} server(s); output in {one_line(log_dir)}/server*.log")
        show(f"their key is in {one_line(servers.key_file)}; who uses them sets rollout.servers.api_key_file")
        while not servers.ready(_ROUND_SECONDS):
            if ended.is_set():
                return
        if addresses is not None:
            _write_lines(addresses, servers.urls)
        if shared is not None:
            _gather(shared, nodes)
        show(f"ready: {' '.join(servers.urls)}")
        while not ended.wait(_ROUND_SECONDS):
            servers.refuse_lost()


def _gather(shared: Path, nodes: int) -> None:
    """The last of the machines to be ready brings all addresses together; two that think so write the same."""
    files = [path for path in sorted(shared.glob("addresses-*")) if path.suffix != ".partial"]
    if len(files) == nodes:
        _write_lines(shared / "addresses", [line for path in files for line in read_text(path).splitlines()])


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with plain_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # what a link of this name leads to would be written
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        partial.replace(path)
