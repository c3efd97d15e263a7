"""Receivers of the section `weight_sync`: started, found out when ready, stopped, killed; and what they were sent."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from aspo_megatron.launch.addresses import free_ports
from aspo_megatron.rollout.client import ServerClient
from aspo_megatron.rollout.loop_thread import LoopThread
from aspo_megatron.rollout.weight_sync.session import Prepared
from aspo_megatron.rollout.weight_sync.transports import DistributedTransport
from benchmarks.gpu_check.lines import Place

_MODULE = f"{__package__}.weight_sync_receiver"
_FOR_RANKS = ("CUDA_DEVICE_MAX_CONNECTIONS", "PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")
_READY_SHARE = 0.5
"""Of the section's time."""


@dataclass(frozen=True)
class Server:
    """A receiver's process."""

    process: subprocess.Popen[bytes]
    client: ServerClient

    def signal(self, number: signal.Signals) -> None:
        """Stop it, or kill it, which works on one that is stopped too."""
        os.kill(self.process.pid, number)


class NotReadyError(Exception):
    """A receiver does not answer; says what it printed last."""


@contextlib.contextmanager
def servers(count: int, place: Place, loop: LoopThread) -> Iterator[list[Server]]:
    """`count` receivers that answer; on the GPUs after the first, in turn."""
    session = loop.run(_session())
    deadline = time.monotonic() + _READY_SHARE * place.seconds
    started: list[Server] = []
    try:
        for number, port in enumerate(free_ports(count, "127.0.0.1")):
            client = ServerClient(f"http://127.0.0.1:{port}", session, None)
            started.append(Server(_start(number, port, place), client))
        for number, server in enumerate(started):
            _wait_for(server, loop, _log(place, number), deadline)
        yield started
    finally:
        for server in started:
            server.process.kill()
            server.process.wait()
        loop.run(session.close())


async def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))


def _start(number: int, port: int, place: Place) -> subprocess.Popen[bytes]:
    env = {name: value for name, value in os.environ.items() if name not in _FOR_RANKS}
    if place.on_gpu:
        visible = [name for name in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
        others = (visible or [str(index) for index in range(place.gpus)])[1:]
        env["CUDA_VISIBLE_DEVICES"] = others[number % len(others)]
    device = "cuda:0" if place.on_gpu else "cpu"
    command = [sys.executable, "-m", _MODULE, str(port), device, str(os.getpid())]
    with _log(place, number).open("wb") as log:
        return subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)


def _log(place: Place, number: int) -> Path:
    return place.work / f"receiver{number}.log"


def _wait_for(server: Server, loop: LoopThread, log: Path, deadline: float) -> None:
    while not loop.run(server.client.ready()):
        if server.process.poll() is not None or time.monotonic() > deadline:
            said = log.read_text(encoding="utf-8", errors="replace")[-1000:]
            raise NotReadyError(f"a receiver does not answer: {said or 'it has said nothing'}")
        time.sleep(0.1)


@dataclass
class TimedTransport(DistributedTransport):
    """The product's way to send weights, with the seconds that its parts took.

    Attributes:
        joined: seconds of forming a group, for each server in turn.
        left: seconds of leaving one.
        sent: of each server, a bucket's bytes and seconds, in turn.
    """

    backend: str
    timeout_seconds: float
    joined: list[float] = field(default_factory=list)
    left: list[float] = field(default_factory=list)
    sent: dict[str, list[tuple[int, float]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(self.backend, 1, self.timeout_seconds)

    async def join(self, client: ServerClient) -> None:
        """Form a group with the server."""
        start = time.perf_counter()
        await super().join(client)
        self.joined.append(time.perf_counter() - start)

    async def send(self, client: ServerClient, prepared: Prepared) -> None:
        """Have the server load a bucket."""
        start = time.perf_counter()
        await super().send(client, prepared)
        size = sum(tensor.nbytes for tensor in prepared.tensors)
        self.sent.setdefault(client.url, []).append((size, time.perf_counter() - start))

    async def leave(self, client: ServerClient) -> None:
        """Give the group up."""
        start = time.perf_counter()
        await super().leave(client)
        self.left.append(time.perf_counter() - start)

    @property
    def first_seconds(self) -> float:
        """Of the first bucket, with which NCCL connects."""
        return max(sent[0][1] for sent in self.sent.values())

    @property
    def bytes_a_second(self) -> float:
        """Of the buckets after the first, to the slowest server."""
        rest = [sent[1:] for sent in self.sent.values()]
        return min(sum(size for size, _ in sent) / max(sum(seconds for _, seconds in sent), 1e-9) for sent in rest)
