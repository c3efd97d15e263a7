"""The SGLang servers of a run on this machine, for runs that are started elsewhere: `aspo serve`."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from aspo_megatron.checkpoint.usable import usable_model, usable_weights
from aspo_megatron.config import RunConfig
from aspo_megatron.files import plain_errors
from aspo_megatron.folders import LOGS
from aspo_megatron.foreign_text import one_line
from aspo_megatron.launch.run_folder import refuse_links
from aspo_megatron.models.folder_files import SERVER_FILES, refuse_marked_files
from aspo_megatron.parallel.device.platform import choose_platform
from aspo_megatron.reading import read_text
from aspo_megatron.rollout.sglang.command import ServedModel
from aspo_megatron.rollout.sglang.local_servers import LocalServers

_ROUND_SECONDS = 5.0


@dataclass(frozen=True)
class SharedFolder:
    """A folder of several machines that serve together.

    It has their common key in `key`, and gets their addresses in `addresses`, and their logs.
    """

    path: Path
    nodes: int

    @property
    def node(self) -> str:
        """The name of this machine."""
        return os.environ.get("SLURMD_NODENAME") or socket.gethostname()

    def settings(self) -> list[str]:
        """What the run's configuration gets on this machine, as `key=value`."""
        return [
            f"rollout.servers.host={self.node}",
            f"rollout.servers.api_key_file={self.path / 'key'}",
            f"output_dir={self.path / self.node}",
        ]

    def add(self, urls: Sequence[str]) -> None:
        """Note this machine's servers, which answer.

        The last of the machines to be ready brings all addresses together; two that think so write the same.

        Raises:
            UserError: a file cannot be written.
        """
        _write_lines(self.path / f"addresses-{self.node}", urls)
        files = [path for path in sorted(self.path.glob("addresses-*")) if path.suffix != ".partial"]
        if len(files) == self.nodes:
            _write_lines(self.path / "addresses", [line for path in files for line in read_text(path).splitlines()])


def serve_run(run: RunConfig, addresses: Path | None, shared: SharedFolder | None, tell: Callable[[str], None]) -> None:
    """Start the servers of a run, and keep them until SIGINT or SIGTERM; for the main thread.

    Args:
        run: says how many, and of which model.
        addresses: a file that gets the addresses, a line each, once all answer; not looked at with `shared`.
        shared: where the machines that serve together meet.
        tell: is given lines to show.

    Raises:
        UserError: the model cannot be served, a server is lost for good, or a file cannot be written.
    """
    refuse_links(run.output_dir)
    served = ServedModel.of(run.model)
    (usable_model if served.random else usable_weights)(run.model.path)
    refuse_marked_files(run.model.path, SERVER_FILES)
    settings = run.rollout.servers.model_copy(update={"addresses": ()})
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: ended.set())
    log_dir = run.output_dir / LOGS
    device = choose_platform(run.platform.device, local_rank=0, threads=1).device
    with LocalServers(settings, served, device.type, log_dir, tell) as servers:
        tell(f"starting {settings.count} server(s); output in {one_line(log_dir)}/server*.log")
        tell(f"their key is in {one_line(servers.key_file)}; who uses them sets rollout.servers.api_key_file")
        while not servers.ready(_ROUND_SECONDS):
            if ended.is_set():
                return
        if shared is not None:
            shared.add(servers.urls)
        elif addresses is not None:
            _write_lines(addresses, servers.urls)
        tell(f"ready: {' '.join(servers.urls)}")
        while not ended.wait(_ROUND_SECONDS):
            servers.refuse_lost()


def _write_lines(path: Path, lines: Sequence[str]) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with plain_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.unlink(missing_ok=True)  # what a link of this name leads to would be written
        partial.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        partial.replace(path)
