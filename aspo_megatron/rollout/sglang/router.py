"""A router (sglang-router) in front of servers: it knows generation only, all else goes to the servers themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import aiohttp

from aspo_megatron.rollout.client import ServerClient


class RouterClient(ServerClient):
    """Generation requests to a router, which has a server of its choice answer them."""

    def __init__(
        self, url: str, session: aiohttp.ClientSession, api_key: str | None, servers: Sequence[ServerClient]
    ) -> None:
        """`servers`: those behind it."""
        super().__init__(url, session, api_key)
        self._servers = servers

    async def abort(self, rid: str) -> None:
        """See `ServerClient`. Routers do not forward this, and which server makes it is not known."""
        await asyncio.gather(*(server.abort(rid) for server in self._servers))
