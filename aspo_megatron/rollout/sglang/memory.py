"""The GPU memory of servers that take turns with the trainer: given up while it trains, taken again before a sync."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from aspo_megatron.foreign_text import plain_logger
from aspo_megatron.rollout.client import ServerClient, ServerError
from aspo_megatron.rollout.engine import MemoryTag
from aspo_megatron.rollout.loop_thread import LoopThread

logger = plain_logger(__name__)

_SECONDS = 120.0
_IDLE_SECONDS = 30


class ServerMemory:
    """Which servers have given what up."""

    def __init__(self, loop: LoopThread) -> None:
        self._loop = loop
        self._released: dict[str, tuple[ServerClient, set[MemoryTag]]] = {}

    def release(self, clients: Sequence[ServerClient]) -> list[str]:
        """Have servers that are idle give up weights and cache; the addresses of those that have."""

        async def one(client: ServerClient) -> None:
            # A server with an open request ends when it is asked to give up its memory.
            await client.post("/abort_request", {"rid": "", "abort_all": True}, _SECONDS)
            await client.post(f"/flush_cache?timeout={_IDLE_SECONDS}", {}, _SECONDS)
            await client.post("/release_memory_occupation", {"tags": ["kv_cache", "weights"]}, _SECONDS)

        done = self._each(clients, one)
        for client in done:
            self._released[client.url] = client, {"weights", "kv_cache"}
        return [client.url for client in done]

    def resume(self, what: MemoryTag, version: str) -> None:
        """Have the servers take again what they gave up.

        A server that is not of this `version` when it is to take its weights was started anew since. It has all of
        its memory, and asking it to take what it never gave up would end it.
        """

        async def one(client: ServerClient) -> None:
            if what == "weights" and await client.version() != version:
                self._released[client.url][1].clear()
            else:
                await client.post("/resume_memory_occupation", {"tags": [what]}, _SECONDS)

        waiting = [client for client, tags in self._released.values() if what in tags]
        for client in waiting:
            self._released[client.url][1].discard(what)
        self._each(waiting, one)

    def _each(
        self, clients: Sequence[ServerClient], action: Callable[[ServerClient], Coroutine[Any, Any, None]]
    ) -> list[ServerClient]:
        async def all_of_them() -> list[BaseException | None]:
            return await asyncio.gather(*map(action, clients), return_exceptions=True)

        done: list[ServerClient] = []
        for client, outcome in zip(clients, self._loop.run(all_of_them()), strict=True):
            if isinstance(outcome, ServerError):
                logger.warning("memory of servers: %s", outcome)
            elif outcome is not None:
                raise outcome
            else:
                done.append(client)
        return done
