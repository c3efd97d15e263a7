"""Whether servers have the same weights, bit for bit, by the checksums that they compute themselves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from aspo_megatron.rollout.client import ServerClient, ServerError

Checksums = list[dict[str, str]]
"""Of each rank of a server: of each tensor, by the name that SGLang has for it."""


async def weight_checksums(client: ServerClient, timeout_seconds: float) -> Checksums:
    """The checksums of a server's weights; none from a server that does not compute them, as older ones do not.

    Raises:
        ServerError: no answer.
    """
    try:
        reply = await client.post("/weights_checker", {"action": "checksum"}, timeout_seconds)
        return [dict(rank["checksums"]) for rank in reply["ranks"]]
    except ServerError as fault:
        if fault.status is None:
            raise
    except (KeyError, TypeError, ValueError):
        pass
    return []


async def disagreement(clients: Sequence[ServerClient], timeout_seconds: float) -> str | None:
    """Two servers that have other weights, and a tensor in which they differ; None if all have the same.

    Compared are servers of the same number of ranks. One that does not answer is left out.
    """
    outcomes = await asyncio.gather(
        *(weight_checksums(client, timeout_seconds) for client in clients), return_exceptions=True
    )
    first: dict[int, tuple[str, Checksums]] = {}
    for client, outcome in zip(clients, outcomes, strict=True):
        if isinstance(outcome, ServerError) or not outcome:
            continue
        if isinstance(outcome, BaseException):
            raise outcome
        url, expected = first.setdefault(len(outcome), (client.url, outcome))
        for mine, its in zip(outcome, expected, strict=True):
            names = [name for name in mine.keys() | its.keys() if mine.get(name) != its.get(name)]
            if names:
                return f"{url} and {client.url} have other weights after the same sync, {min(names)} for one"
    return None
