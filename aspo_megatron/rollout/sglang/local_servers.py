"""Starts SGLang servers on this machine, starts those again that die, and ends them with their parent."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import torch

from aspo_megatron.config import ServersConfig
from aspo_megatron.config.words import WeightSync
from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import one_line, safe
from aspo_megatron.launch.addresses import free_ports, in_url, is_loopback
from aspo_megatron.rollout.sglang.command import ServedModel, server_command
from aspo_megatron.rollout.sglang.environment import server_environment
from aspo_megatron.rollout.sglang.server_key import key_for_own_servers, settings_file, without_key

_POLL_SECONDS = 0.5
_GRACE_SECONDS = 10.0
_TAIL_LINES = 15
_TAIL_BYTES = 1 << 16


@dataclass
class _Running:
    number: int
    url: str
    log: Path
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0
    began: float = field(default_factory=time.monotonic)


class LocalServers:
    """The servers of a configuration on this machine, watched by a thread."""

    def __init__(
        self,
        config: ServersConfig,
        model: ServedModel,
        device: str,
        log_dir: Path,
        tell: Callable[[str], None],
        gpus_taken: int = 0,
    ) -> None:
        """Start them; `ready` says when they answer.

        Args:
            config: how many, where, with which Python.
            model: what they serve.
            device: `cpu` or `cuda`.
            log_dir: gets server<N>.log.
            tell: is given a line when a server dies or is started again.
            gpus_taken: the machine's first GPUs, which train; servers get the last ones.

        Raises:
            UserError: no Python with SGLang is where `python` says, there are too few GPUs, or a port is taken.
        """
        if not config.python.exists():
            raise UserError(
                f"rollout.servers.python={config.python}: no such file; SGLang needs its own environment: `make "
                "sglang-cpu` makes one without GPU support, docs/sglang.md says how to make one with it"
            )
        gpus = torch.cuda.device_count() if device == "cuda" else 0
        gpus_taken = 0 if config.colocate else gpus_taken
        if device == "cuda" and config.count * config.tp > gpus - gpus_taken:
            raise UserError(
                f"rollout.servers: count={config.count} x tp={config.tp} GPUs are needed; of this machine's {gpus}, "
                f"{gpus_taken} are for training"
            )
        if device == "cpu" and config.tp > 1:
            raise UserError("rollout.servers.tp: a server on CPU has one process, tp=1")
        self._config, self._model, self._device, self._tell = config, model, device, tell
        log_dir.mkdir(parents=True, exist_ok=True)
        ports = _ports(config)
        self._servers = [
            _Running(number, f"http://{in_url(config.host)}:{port}", log_dir / f"server{number}.log")
            for number, port in enumerate(ports)
        ]
        self.api_key, self.key_file = key_for_own_servers(config, log_dir)
        self._settings = settings_file(self.api_key)
        self._closing = threading.Event()
        self._failure: str | None = None
        self._started = threading.Event()
        # Servers die with the thread that started them, so that one thread starts them all and lives as long as this.
        self._thread = threading.Thread(target=self._watch, name="sglang servers", daemon=True)
        self._thread.start()
        self._started.wait()

    @property
    def urls(self) -> tuple[str, ...]:
        """The servers' addresses."""
        return tuple(server.url for server in self._servers)

    @property
    def weight_sync(self) -> WeightSync:
        """How they are made ready to be given weights."""
        return "distributed" if self._config.sync == "auto" else self._config.sync

    def refuse_lost(self) -> None:
        """See that all run, or are being started.

        Raises:
            UserError: one was given up; the message holds the end of its log.
        """
        if self._failure:
            raise UserError(*self._failure.split("\n"))

    def ready(self, seconds: float) -> bool:
        """Whether all answer within `seconds`.

        Raises:
            UserError: one ended, or took longer than start_timeout_seconds; the message holds the end of its log.
        """
        until = time.monotonic() + seconds
        waiting = list(self._servers)
        while waiting := [server for server in waiting if not _answers(server.url, self.api_key)]:
            server = waiting[0]
            self.refuse_lost()
            if time.monotonic() - server.began > self._config.start_timeout_seconds:
                raise UserError(
                    f"{server.url} is not ready after {self._config.start_timeout_seconds:g} s; the end of "
                    f"{server.log}:",
                    *_tail(server.log).split("\n"),
                )
            if time.monotonic() > until:
                return False
            time.sleep(_POLL_SECONDS)
        return True

    def close(self) -> None:
        """End all servers and what they have started."""
        self._closing.set()
        self._thread.join()
        self._settings.unlink(missing_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _watch(self) -> None:
        try:
            for server in self._servers:
                self._start(server)
        except OSError as error:
            self._failure = f"the SGLang servers cannot be started: {error}"
        finally:
            self._started.set()
        while not self._closing.wait(_POLL_SECONDS):
            for server in self._servers:
                code = server.process.poll() if server.process else None
                if code is not None:
                    self._died(server, code)
        _end([server.process for server in self._servers if server.process])

    def _died(self, server: _Running, code: int) -> None:
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        assert server.process is not None
        _end([server.process])  # its children
        server.process = None
        what, log = f"the SGLang server {server.url} {how}", one_line(server.log)
        if server.starts > self._config.restarts:
            self._failure = f"{what}, after {server.starts} starts; the end of {log}:\n{_tail(server.log)}"
            self._tell(self._failure)
            return
        self._tell(f"{what}; it is started again ({log} has its output)")
        self._start(server)

    def _start(self, server: _Running) -> None:
        server.starts += 1
        server.began = time.monotonic()
        port = int(server.url.rpartition(":")[2])
        command = server_command(self._config, self._model, self._device, port, self._settings)
        server.log.touch()
        server.log.chmod(0o600)  # SGLang writes all its settings there, the key too
        with server.log.open("ab") as log:
            server.process = subprocess.Popen(
                [sys.executable, "-m", "aspo_megatron.launch.exec_tied", str(os.getpid()), *command],
                env=server_environment(self._config, self._device, server.number, os.environ),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


def exposed_without_key(config: ServersConfig) -> list[str]:
    """Addresses of servers beyond loopback that anyone who reaches them may use."""
    return [address for address in without_key(config) if not is_loopback(address)]


def _ports(config: ServersConfig) -> list[int]:
    if not config.port:
        return free_ports(config.count, config.host)
    ports = list(range(config.port, config.port + config.count))
    for port in ports:
        with socket.socket(socket.AF_INET6 if ":" in config.host else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((config.host, port))
            except OSError as error:
                raise UserError(f"rollout.servers.port: {config.host}:{port} cannot be used ({error})") from error
    return ports


class _NoWayElsewhere(urllib.request.HTTPRedirectHandler):
    """A server that names another place is not followed, as that would be told the key."""

    def redirect_request(self, *given: object) -> None:
        return None


def _answers(url: str, key: str) -> bool:
    request = urllib.request.Request(f"{url}/model_info", headers={"Authorization": f"Bearer {key}"})
    try:
        # Past the proxies of the environment, who would be told the key.
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoWayElsewhere)
        with direct.open(request, timeout=5.0) as answer:
            return bool(answer.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """End processes and all of their sessions: SIGTERM, then SIGKILL."""
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
    deadline = time.monotonic() + _GRACE_SECONDS
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, deadline - time.monotonic()))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _tail(log: Path) -> str:
    """The last lines of what a server has written, which may be much."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        lines = safe(file.read(_TAIL_BYTES).decode(errors="replace")).splitlines()
        return "\n".join(lines[-_TAIL_LINES:])
    return ""
