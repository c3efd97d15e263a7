"""Which of several servers gets a request, and what becomes of it when that server fails."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from aspo_megatron.foreign_text import plain_logger
from aspo_megatron.rollout.client import ServerClient, ServerError

logger = plain_logger(__name__)

T = TypeVar("T")


class NoServerError(Exception):
    """No server is left that has the weights."""


@dataclass
class _Server:
    client: ServerClient
    slots: asyncio.Semaphore
    up: bool = False
    failures: int = 0
    asked: set[asyncio.Future[Any]] = field(default_factory=set)
    """Requests that it has not answered yet."""
    given_up: set[asyncio.Future[Any]] = field(default_factory=set)
    """Requests that are not waited for any more, as it was left out meanwhile."""

    def mark_up(self, up: bool) -> None:
        """Whether it gets requests; those that it has are given up if not."""
        self.up, self.failures = up, 0
        if not up:
            self.given_up |= self.asked
            for future in self.asked:
                future.cancel()


@dataclass
class ServerPool:
    """Servers that share the requests. Only those that are `up` get requests: a weight sync says which they are.

    A server that fails `max_failures` times in a row is left out until the next sync: it may have missed one.
    A `router` before them is asked first, while all of them are up, and the servers themselves if it fails.
    """

    clients: Sequence[ServerClient]
    concurrency: int
    max_failures: int
    attempts: int
    router: ServerClient | None = None
    _servers: list[_Server] = field(init=False)
    _front: _Server | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self._servers = [_Server(client, asyncio.Semaphore(self.concurrency)) for client in self.clients]
        if self.router is not None:
            self._front = _Server(self.router, asyncio.Semaphore(self.concurrency * len(self.clients)))

    @property
    def up(self) -> list[ServerClient]:
        """The servers that get requests."""
        return [server.client for server in self._servers if server.up]

    def mark_up(self, urls: Sequence[str]) -> None:
        """These servers, and no others, have the present weights. Open requests of the others go elsewhere.

        To be called in the event loop.
        """
        for server in self._servers:
            server.mark_up(server.client.url in urls)
        if self._front is not None:
            # It may choose any server: one without the weights, or paused, would get prompts.
            self._front.mark_up(all(server.up for server in self._servers))

    async def ask(self, home: int, request: Callable[[ServerClient], Awaitable[T]]) -> T:
        """What a server answers: that of number `home`, so that what it has cached is used, or else another.

        Raises:
            NoServerError: all have failed.
            ServerError: the last of `attempts` failures.
        """
        last: _Server | None = None
        retrying = AsyncRetrying(
            stop=stop_after_attempt(self.attempts),
            wait=wait_random_exponential(multiplier=0.2, max=10.0),
            retry=retry_if_exception_type(ServerError),
            reraise=True,
        )
        async for attempt in retrying:
            with attempt:
                server = last = await self._slot(home, last)
                try:
                    answer = await _unless_given_up(server, request)
                except ServerError as fault:
                    self._failed(server, fault)
                    raise
                finally:
                    server.slots.release()
                server.failures = 0
        return answer

    async def _slot(self, home: int, failed: _Server | None) -> _Server:
        """A server that is up, not the one that just failed if there is another, with one of its slots taken."""
        while True:
            up = [server for server in self._servers if server.up]
            if not up:
                raise NoServerError
            first = self._servers[home % len(self._servers)]
            choice = first if first.up else up[home % len(up)]
            if self._front is not None and self._front.up and failed is None:
                choice = self._front
            if choice is failed and len(up) > 1:
                choice = up[(up.index(choice) + 1) % len(up)]
            await choice.slots.acquire()
            if choice.up:
                return choice
            choice.slots.release()

    def _failed(self, server: _Server, fault: ServerError) -> None:
        server.failures += 1
        if server.up and server.failures >= self.max_failures:
            server.up = False
            logger.warning("%s; it gets no more requests until it was given weights again", fault)


async def _unless_given_up(server: _Server, request: Callable[[ServerClient], Awaitable[T]]) -> T:
    """What a server answers.

    Raises:
        ServerError: it failed, or was left out before it had answered: it may be paused for ever.
    """
    future = asyncio.ensure_future(request(server.client))
    server.asked.add(future)
    try:
        return await future
    except asyncio.CancelledError:
        if future not in server.given_up:
            raise
        raise ServerError(server.client.url, "has not taken the weights, a response is asked for elsewhere") from None
    finally:
        server.asked.discard(future)
        server.given_up.discard(future)
