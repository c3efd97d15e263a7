"""Which of several servers gets a request, and what becomes of it when that server fails."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from aspo_megatron.rollout.server_client import ServerClient, ServerError

logger = logging.getLogger(__name__)

T = TypeVar("T")


class NoServerError(Exception):
    """No server is left that has the weights."""


@dataclass
class _Server:
    client: ServerClient
    slots: asyncio.Semaphore
    up: bool = False
    failures: int = 0


@dataclass
class Fleet:
    """Several servers. Only those that are `up` get requests: a weight sync says which they are.

    A server that fails `max_failures` times in a row is left out until the next sync: it may have missed one.
    """

    clients: Sequence[ServerClient]
    concurrency: int
    max_failures: int
    attempts: int
    _servers: list[_Server] = field(init=False)

    def __post_init__(self) -> None:
        self._servers = [_Server(client, asyncio.Semaphore(self.concurrency)) for client in self.clients]

    @property
    def up(self) -> list[ServerClient]:
        """The servers that get requests."""
        return [server.client for server in self._servers if server.up]

    def set_up(self, urls: Sequence[str]) -> None:
        """These servers, and no others, have the present weights."""
        for server in self._servers:
            server.up, server.failures = server.client.url in urls, 0

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
                    answer = await request(server.client)
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
