"""A process group of this process and one server's ranks, for weights that are broadcast."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import TCPStore

# PyTorch has no public way to form a group with processes outside of the world; SGLang joins by the same function.
from torch.distributed.distributed_c10d import Backend, GroupName, PrefixStore, _new_process_group_helper, _world

_BLOCKING_WAIT = "TORCH_NCCL_BLOCKING_WAIT"
_FORMING = threading.Lock()
"""Of this process's environment, while a group of NCCL is made, which takes no time: it connects as it first sends."""


class TransferGroup:
    """This process is rank 0 and sends; the ranks of a server receive."""

    def __init__(
        self,
        address: str,
        port: int,
        name: str,
        server_ranks: int,
        backend: str,
        join_seconds: float,
        send_seconds: float,
    ) -> None:
        """Form the group; returns when the server has joined.

        Args:
            address: of this process, as the server sees it.
            port: that it listens on.
            name: of the group.
            server_ranks: of the server.
            backend: `nccl` or `gloo`.
            join_seconds: how long the server may take to join.
            send_seconds: how long it may take to receive a tensor.

        Raises:
            RuntimeError: it did not join in time.
        """
        size = 1 + server_ranks
        joining, sending = timedelta(seconds=join_seconds), timedelta(seconds=send_seconds)
        # Not `rendezvous`, by which the server joins: a process that torchrun has started would host no store by it.
        store = TCPStore(address, port, size, is_master=True, timeout=joining, multi_tenant=True)
        with _without_watchdog() if backend == "nccl" else contextlib.nullcontext():
            self._group, _ = _new_process_group_helper(
                size,
                0,
                [],
                Backend(backend),
                PrefixStore(name, store),
                group_name=GroupName(name),
                timeout=sending if backend == "nccl" else min(joining, sending),  # gloo connects here
            )
        if backend == "gloo":
            self._group.set_timeout(sending)
        _world.pg_group_ranks[self._group] = {number: number for number in range(size)}
        self._cuda = torch.device("cuda") if backend == "nccl" else None
        # Of its own: a broadcast that hangs, as the server is gone, must not hold up what the trainer does.
        self._stream = torch.cuda.Stream() if self._cuda else None
        self._busy = threading.Lock()

    def send(self, tensors: list[Tensor]) -> None:
        """Broadcast tensors, in their order; returns when the server has them.

        Raises:
            RuntimeError: the server is gone, or does not receive in time.
        """
        with self._busy, torch.cuda.stream(self._stream):
            if self._stream is None:
                for tensor in tensors:
                    dist.broadcast(tensor, src=0, group=self._group)
                return
            self._stream.wait_stream(torch.cuda.default_stream())
            for work in [dist.broadcast(tensor, src=0, group=self._group, async_op=True) for tensor in tensors]:
                work.wait()
            self._stream.synchronize()

    def abandon(self) -> None:
        """The server does not receive: end what NCCL is at, which may take long itself.

        Gloo ends by itself, with the connection or in time.
        """
        if self._cuda is not None:
            with contextlib.suppress(RuntimeError):  # it may have ended by itself
                self._group._get_backend(self._cuda).abort()

    def close(self) -> None:
        """Leave the group, once nothing is being sent."""
        with self._busy, contextlib.suppress(RuntimeError):  # the server may be gone
            dist.destroy_process_group(self._group)


@contextlib.contextmanager
def _without_watchdog() -> Iterator[None]:
    """NCCL groups that are formed within have no watchdog, and their `wait` waits and raises.

    A watchdog ends the process when a broadcast fails or takes too long; here that is a server's failure, which the
    run outlives. No option of a group says so: its constructor reads an environment variable. (Without the watchdog's
    error handling alone it would still ask for a dump of all groups, and end the process after it.)
    """
    with _FORMING:
        before = os.environ.get(_BLOCKING_WAIT)
        os.environ[_BLOCKING_WAIT] = "1"
        try:
            yield
        finally:
            if before is None:
                del os.environ[_BLOCKING_WAIT]
            else:
                os.environ[_BLOCKING_WAIT] = before
