"""Weights go from the trainer's GPU to servers on others, and a server that hangs or dies does not end the trainer.

The trainer is this process, with the product's own transport: NCCL on GPUs, gloo without. The servers are processes of
`weight_sync_receiver.py`, which take part as SGLang does.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aspo_megatron.rollout.loop_thread import LoopThread
from aspo_megatron.rollout.weight_sync.checksums import weight_checksums
from aspo_megatron.rollout.weight_sync.session import SyncResult, sync_weights
from benchmarks.gpu_check.lines import Place, Sheet
from benchmarks.gpu_check.weight_sync_receiver import checksum
from benchmarks.gpu_check.weight_sync_servers import NotReadyError, Server, TimedTransport, servers

_LEAVE_BOUND = 5.0
_LEAVING_A_SICK_ONE = 10.0
"""What the product waits for a server's answer to leaving."""
_ROOM = 20.0
_CHECK_SECONDS = 60.0

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Size:
    """`rows` of `width` numbers in each of `count` matrices; `bucket` bytes go at once, within `patience` seconds."""

    count: int
    rows: int
    width: int
    dtype: torch.dtype
    bucket: int
    patience: float


_FULL = Size(32, 2048, 4096, torch.bfloat16, 128 << 20, 10.0)  # 512 MiB
_SMALL = Size(8, 64, 1023, torch.bfloat16, 384 << 10, 4.0)


def run(sheet: Sheet, place: Place) -> None:
    """Two servers served; one that is stopped, one that is killed; and a new one in their place."""
    if place.on_gpu and place.gpus < 2:
        sheet.not_done("weights to another GPU", f"needs 2 GPUs, {place.gpus} here")
        return
    loop = LoopThread("weight sync")
    try:
        with servers(4, place, loop) as (well, stopped, killed, new):
            trainer = _Trainer(sheet, place, loop)
            trainer.sync_well("two servers", [well, stopped], 1)
            trainer.sync_well("the same, in groups formed anew", [well, stopped], 2)
            trainer.sync_sick("one is stopped in the middle", well, stopped, signal.SIGSTOP, 3)
            stopped.signal(signal.SIGKILL)  # its GPU may be at the broadcast still
            trainer.sync_sick("one is killed in the middle", well, killed, signal.SIGKILL, 4)
            trainer.sync_well("a new one in its place", [well, new], 5)
    except NotReadyError as error:
        sheet.failed("servers start", str(error))
    finally:
        loop.close()


class _Trainer:
    def __init__(self, sheet: Sheet, place: Place, loop: LoopThread) -> None:
        self._sheet, self._loop, self._device = sheet, loop, place.device
        self._size = _SMALL if place.small else _FULL
        self._backend = "nccl" if place.on_gpu else "gloo"

    def sync_well(self, name: str, chosen: Sequence[Server], version: int) -> None:
        """A sync in which nothing goes wrong."""
        weights = self._weights(version)
        transport, result, seconds = self._sync(chosen, weights, version, weights.items())
        self._served(name, chosen, chosen, result, weights)
        number = f"{result.weight_bytes / 2**20:.0f} MiB to each of {len(chosen)} servers at once"
        self._sheet.measured(f"{name}: whole sync", seconds, "s", note=number)
        if transport.sent:
            note = f"each of {len(chosen)} servers at once, buckets after the first"
            self._sheet.measured(f"{name}: speed", transport.bytes_a_second / 1e9, "GB/s", note=note)
            self._sheet.measured(f"{name}: first bucket", transport.first_seconds, "s")
        self._sheet.measured(f"{name}: forming a group", max(transport.joined), "s")
        self._sheet.at_most(
            f"{name}: leaving a group", max(transport.left), _LEAVE_BOUND, unit="s", reference="both sides at once"
        )

    def sync_sick(self, name: str, well: Server, sick: Server, what: signal.Signals, version: int) -> None:
        """A sync in which one server is sent a signal, when half of the weights are."""
        weights = self._weights(version)

        def drawn() -> Iterator[tuple[str, Tensor]]:
            for number, pair in enumerate(weights.items()):
                if number == len(weights) // 2:
                    sick.signal(what)
                yield pair

        _, result, seconds = self._sync([well, sick], weights, version, drawn())
        self._served(name, [well, sick], [well], result, weights)
        bound = self._size.patience + _LEAVING_A_SICK_ONE + _ROOM
        patience = f"a patience of {self._size.patience:g} s"
        self._sheet.at_most(f"{name}: seconds until the other goes on", seconds, bound, unit="s", reference=patience)

    def _sync(
        self, chosen: Sequence[Server], weights: Weights, version: int, drawn: Iterable[tuple[str, Tensor]]
    ) -> tuple[TimedTransport, SyncResult, float]:
        transport = TimedTransport(self._backend, self._size.patience)
        clients = [server.client for server in chosen]
        start = time.perf_counter()
        result = sync_weights(self._loop, clients, transport, drawn, str(version), self._size.bucket)
        return transport, result, time.perf_counter() - start

    def _served(
        self, name: str, asked: Sequence[Server], chosen: Sequence[Server], result: SyncResult, weights: Weights
    ) -> None:
        """Those that are to have the weights say so, and have them bit for bit."""
        expected = tuple(server.client.url for server in chosen)
        self._sheet.holds(
            f"{name}: {len(chosen)} of {len(asked)} are served", result.urls == expected, reference="the sync's result"
        )
        want = {name: checksum(tensor) for name, tensor in weights.items()}
        wrong = 0
        for server in chosen:
            found = self._loop.run(weight_checksums(server.client, _CHECK_SECONDS))
            got = found[0] if found else {}
            wrong += sum(got.get(name) != value for name, value in want.items())
        self._sheet.equal(f"{name}: tensors with other bytes", wrong, 0, reference="SHA-256 on both sides")

    def _weights(self, seed: int) -> Weights:
        """Matrices and vectors, others for each seed."""
        size, generator = self._size, torch.Generator(self._device).manual_seed(seed)
        weights: Weights = {}
        for number in range(size.count):
            for kind, shape in (("matrix", (size.rows, size.width)), ("vector", (size.width,))):
                drawn = torch.randn(shape, generator=generator, device=self._device)
                weights[f"layers.{number}.{kind}"] = drawn.to(size.dtype)
        return weights
