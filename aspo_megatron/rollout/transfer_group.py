"""A process group of this process and one server's ranks, for weights that are broadcast."""

from __future__ import annotations

import contextlib
import socket
from datetime import timedelta
from urllib.parse import urlsplit

import torch.distributed as dist
from torch import Tensor

# PyTorch has no public way to form a group with processes outside of the world; SGLang joins by the same function.
from torch.distributed.distributed_c10d import Backend, GroupName, PrefixStore, _new_process_group_helper, _world
from torch.distributed.rendezvous import rendezvous


class TransferGroup:
    """This process is rank 0 and sends; the ranks of a server receive."""

    def __init__(
        self, address: str, port: int, name: str, server_ranks: int, backend: str, timeout_seconds: float
    ) -> None:
        """Form the group; returns when the server has joined.

        Raises:
            RuntimeError: it did not within `timeout_seconds`.
        """
        timeout = timedelta(seconds=timeout_seconds)
        size = 1 + server_ranks
        store, _, _ = next(rendezvous(f"tcp://{address}:{port}", 0, size, timeout=timeout))
        store.set_timeout(timeout)
        self._group, _ = _new_process_group_helper(
            size, 0, [], Backend(backend), PrefixStore(name, store), group_name=GroupName(name), timeout=timeout
        )
        _world.pg_group_ranks[self._group] = {number: number for number in range(size)}

    def send(self, tensors: list[Tensor]) -> None:
        """Broadcast tensors, in their order.

        Raises:
            RuntimeError: the server is gone, or does not receive in time.
        """
        for tensor in tensors:
            dist.broadcast(tensor, src=0, group=self._group)

    def close(self) -> None:
        """Leave the group."""
        with contextlib.suppress(RuntimeError):  # the server may be gone
            dist.destroy_process_group(self._group)


def address_towards(url: str) -> str:
    """This machine's address as the server at `url` sees it."""
    parts = urlsplit(url)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((parts.hostname, parts.port or 80))  # sends nothing: it looks up the way
        return str(probe.getsockname()[0])


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return int(probe.getsockname()[1])
