"""Giving servers new weights: streamed in buckets, to all at once, each on its own when it fails.

A server is paused first, and its open responses are computed anew from the weights' change on (`retract`);
then come the buckets, the new version, and it goes on. How a bucket travels is up to a `Transport`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from aspo_megatron.foreign_text import plain_logger
from aspo_megatron.rollout.client import ServerClient, ServerError
from aspo_megatron.rollout.loop_thread import LoopThread
from aspo_megatron.rollout.weight_sync.shared_bucket import SharedBucket

logger = plain_logger(__name__)

Bucket = list[tuple[str, Tensor]]
_CONTROL_SECONDS = 60.0


@dataclass(frozen=True)
class Prepared:
    """A request's body, and tensors that go beside it: by a broadcast, or by memory that is shared."""

    body: bytes
    tensors: list[Tensor] = field(default_factory=list)
    shared: SharedBucket | None = None


class Transport(Protocol):
    """A way for weights to get to servers.

    Attributes:
        streams: whether buckets are sent one by one; otherwise all go through `prepare`, then comes one `send`.
    """

    streams: bool

    async def join(self, client: ServerClient) -> None:
        """Make ready for this server; called at each sync."""
        ...

    def prepare(self, bucket: Iterable[tuple[str, Tensor]]) -> Prepared:
        """What `send` needs, the same for all servers."""
        ...

    async def send(self, client: ServerClient, prepared: Prepared) -> None:
        """Have a server load what was prepared.

        Raises:
            ServerError: it did not.
        """
        ...

    async def leave(self, client: ServerClient) -> None:
        """Undo `join`, whether or not the server failed since."""
        ...


@dataclass(frozen=True)
class SyncResult:
    """Servers that have the new weights, and how many bytes of weights each was sent."""

    urls: tuple[str, ...]
    weight_bytes: int


def sync_weights(
    loop: LoopThread,
    clients: Sequence[ServerClient],
    transport: Transport,
    tensors: Iterable[tuple[str, Tensor]],
    version: str,
    bucket_bytes: int,
) -> SyncResult:
    """Stream `tensors` to all servers; while a bucket is on its way the next is made.

    A server that fails is left where it is and not among the result's; the next sync tries it again. All tensors are
    drawn in any case, as drawing them is a collective.

    Raises:
        CheckpointError: drawing the tensors did. No server has the new version then.
    """
    session = _Session(clients, transport)
    loop.run(session.each(session.open))
    sent = 0
    pending: Future[None] | None = None
    try:
        for bucket in buckets(tensors, bucket_bytes) if transport.streams else [CountedTensors(tensors)]:
            prepared = transport.prepare(bucket)
            sent += _size(bucket)
            if pending is not None:
                pending.result()
            pending = loop.start(session.each(session.sender(prepared)))
    finally:
        if pending is not None:
            pending.result()
        loop.run(session.leave_all())
    loop.run(session.each(session.closer(version)))
    return SyncResult(tuple(client.url for client in session.alive), sent)


def buckets(tensors: Iterable[tuple[str, Tensor]], limit_bytes: int) -> Iterator[Bucket]:
    """Tensors in lists of at most `limit_bytes`, or of one tensor that is larger."""
    bucket: Bucket = []
    size = 0
    for name, tensor in tensors:
        if bucket and size + tensor.nbytes > limit_bytes:
            yield bucket
            bucket, size = [], 0
        bucket.append((name, tensor))
        size += tensor.nbytes
    if bucket:
        yield bucket


class CountedTensors:
    """Tensors that a transport goes through by itself; `nbytes` is the size of those it has taken."""

    def __init__(self, tensors: Iterable[tuple[str, Tensor]]) -> None:
        self._tensors = tensors
        self.nbytes = 0

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, tensor in self._tensors:
            self.nbytes += tensor.nbytes
            yield name, tensor


def _size(bucket: Bucket | CountedTensors) -> int:
    return bucket.nbytes if isinstance(bucket, CountedTensors) else sum(tensor.nbytes for _, tensor in bucket)


class _Session:
    """One sync, for the servers that have not failed in it."""

    def __init__(self, clients: Sequence[ServerClient], transport: Transport) -> None:
        self._all, self.alive = clients, list(clients)
        self._transport = transport

    async def each(self, action: Callable[[ServerClient], Awaitable[None]]) -> None:
        """Do something with all servers at once; who fails is out."""
        outcomes = await asyncio.gather(*map(action, self.alive), return_exceptions=True)
        for client, outcome in zip(list(self.alive), outcomes, strict=True):
            if isinstance(outcome, ServerError):
                logger.warning("weight sync: %s; it gets no requests until the next sync", outcome)
                self.alive.remove(client)
            elif isinstance(outcome, BaseException):
                raise outcome

    async def open(self, client: ServerClient) -> None:
        """Pause a server and have it wait for buckets."""
        await client.version()  # one that is gone says so at once
        await client.post("/pause_generation", {"mode": "retract"}, _CONTROL_SECONDS)
        await self._transport.join(client)
        if self._transport.streams:
            await _begin(client)

    async def leave_all(self) -> None:
        """Let go of all servers, those that failed too."""
        await asyncio.gather(*map(self._transport.leave, self._all))

    def sender(self, prepared: Prepared) -> Callable[[ServerClient], Awaitable[None]]:
        """Sends a bucket."""

        async def send(client: ServerClient) -> None:
            await self._transport.send(client, prepared)

        return send

    def closer(self, version: str) -> Callable[[ServerClient], Awaitable[None]]:
        """Ends a server's pause, with the new version."""

        async def close(client: ServerClient) -> None:
            if self._transport.streams:
                await _if_known(client, "/end_weight_update")
            await client.post("/flush_cache", {}, _CONTROL_SECONDS)
            body = {"new_version": version, "abort_all_requests": False}
            await client.post("/update_weight_version", body, _CONTROL_SECONDS)
            await client.post("/continue_generation", {}, _CONTROL_SECONDS)
            served = await client.version()
            if served != version:
                raise ServerError(client.url, f"serves weights of version {served} after an update to {version}")

        return close


async def _begin(client: ServerClient) -> None:
    """Open an update; one that an earlier sync has left open is ended first."""
    try:
        await _if_known(client, "/begin_weight_update")
    except ServerError as fault:
        if fault.status != 400:
            raise
        await _if_known(client, "/end_weight_update")
        await _if_known(client, "/begin_weight_update")


async def _if_known(client: ServerClient, path: str) -> None:
    """A call that older servers do not have, nor need."""
    try:
        await client.post(path, {}, _CONTROL_SECONDS)
    except ServerError as fault:
        if fault.status != 404:
            raise
