"""How ranks meet: at a store, and by which network interfaces they speak.

Neither asks who comes, so that whoever reaches them can be a rank. If all ranks are on one machine, no other
machine does.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist
from torch._C._distributed_c10d import HashStore, Store, TCPStore

from aspo_megatron.errors import UserError
from aspo_megatron.launch.loopback import is_loopback, listen, loopback_interface

_BY_GLOO, _BY_NCCL = "GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"


def meet(backend: str, world_size: int, timeout: timedelta) -> None:
    """Join the process group that the launcher has described in the environment.

    Raises:
        UserError: this is rank 0, and it cannot listen where the others look for it.
    """
    if world_size == 1:
        dist.init_process_group(backend, store=HashStore(), rank=0, world_size=1, timeout=timeout)
    elif stays_here(os.environ):
        rank = int(os.environ["RANK"])
        store = store_of_this_machine(rank, world_size, timeout)
        dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    else:
        dist.init_process_group(backend, timeout=timeout)


def stays_here(env: Mapping[str, str]) -> bool:
    """Whether all ranks are on this machine, as no other can reach the first; and the first is to hold the store."""
    of_torchrun = env.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return is_loopback(env.get("MASTER_ADDR", "")) and not of_torchrun


def store_of_this_machine(rank: int, world_size: int, timeout: timedelta) -> Store:
    """Torch's own, at the address in the environment, where alone it listens: by itself it would at all addresses.

    Raises:
        UserError: this is rank 0, and it cannot listen there.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if rank > 0:
        return TCPStore(address, port, world_size, timeout=timeout)
    try:
        listener = listen(address, port)
    except OSError as error:
        raise UserError(f"MASTER_ADDR={address} MASTER_PORT={port}: rank 0 cannot listen there: {error}") from error
    return TCPStore(address, port, world_size, True, timeout, master_listen_fd=listener.detach())


@contextmanager
def interfaces(world_size: int, servers_elsewhere: bool) -> Iterator[None]:
    """Have gloo and NCCL listen on the loopback interface, where all ranks are on this machine.

    A rank that is alone, too: gloo listens for whom it has no use. They know no way to be told but the environment.
    What the user has set stays. NCCL takes one interface for all that a process does: not this one where the process
    also sends weights to servers on other machines.
    """
    alone = world_size == 1 or is_loopback(os.environ.get("MASTER_ADDR", ""))
    here = loopback_interface() if alone else None
    names = {} if here is None else {_BY_GLOO: here} if servers_elsewhere else {_BY_GLOO: here, _BY_NCCL: f"={here}"}
    added = {name: value for name, value in names.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
