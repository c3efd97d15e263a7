"""A process group of this process and one server's ranks, for weights that are broadcast."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._distributed_c10d import Store, TCPStore

# PyTorch has no public way to form a group with processes outside of the world; SGLang joins by the same function.
from torch.distributed.distributed_c10d import Backend, GroupName, PrefixStore, _new_process_group_helper, _world

from aspo_megatron.launch.loopback import listen

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
        # And at this address alone: whoever reaches the store can take the server's place.
        try:
            listener = listen(address, port)
        except OSError as error:
            raise RuntimeError(f"cannot listen at {address}, port {port}: {error}") from error
        store = TCPStore(address, port, size, True, joining, master_listen_fd=listener.detach())
        self._busy = threading.Lock()
        self._gloo: Any = None
        self._cuda: torch.device | None = None
        self._stream: torch.cuda.Stream | None = None
        if backend == "gloo":
            self._sending = sending
            self._gloo = _gloo_group(address, name, store, size, min(joining, sending))
            return
        with _without_watchdog():
            self._group, _ = _new_process_group_helper(
                size, 0, [], Backend(backend), PrefixStore(name, store), group_name=GroupName(name), timeout=sending
            )
        _world.pg_group_ranks[self._group] = {number: number for number in range(size)}
        self._cuda = torch.device("cuda")
        # Of its own: a broadcast that hangs, as the server is gone, must not hold up what the trainer does.
        self._stream = torch.cuda.Stream()

    def send(self, tensors: list[Tensor]) -> None:
        """Broadcast tensors, in their order; returns when the server has them.

        Raises:
            RuntimeError: the server is gone, or does not receive in time.
        """
        with self._busy, torch.cuda.stream(self._stream):
            if self._stream is None:
                for tensor in tensors:
                    self._gloo.broadcast([tensor], _from_here(self._sending)).wait()
                return
            self._stream.wait_stream(torch.cuda.default_stream())
            for work in [dist.broadcast(tensor, src=0, group=self._group, async_op=True) for tensor in tensors]:
                work.wait()
            self._stream.synchronize()

    def abandon(self) -> None:
        """The server does not receive: end what NCCL does, which may take long itself.

        Gloo ends by itself, with the connection or in time.
        """
        if self._cuda is not None:
            with contextlib.suppress(RuntimeError):  # it may have ended by itself
                self._group._get_backend(self._cuda).abort()

    def close(self) -> None:
        """Leave the group, once nothing is being sent."""
        with self._busy, contextlib.suppress(RuntimeError):  # the server may be gone
            if self._gloo is None:
                dist.destroy_process_group(self._group)
            self._gloo = None


def _gloo_group(address: str, name: str, store: Store, size: int, patience: timedelta) -> Any:
    """A group that listens at this address; PyTorch's own way of making one asks the environment where.

    Its store's prefixes are those of `_new_process_group_helper`, by which the server joins.
    """
    gloo: Any = dist.ProcessGroupGloo  # whose types do not name all that it has
    options = gloo._Options()
    options._devices = [gloo.create_device(hostname=address)]
    options._timeout = patience
    return gloo(PrefixStore("cpu/", PrefixStore(f"{name}/", PrefixStore(name, store))), 0, size, options)


def _from_here(patience: timedelta) -> dist.BroadcastOptions:
    options = dist.BroadcastOptions()
    options.rootRank, options.timeout = 0, patience
    return options


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
