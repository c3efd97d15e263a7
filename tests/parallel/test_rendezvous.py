"""Where ranks of one machine listen: at loopback addresses, whatever the machine's name stands for."""

from __future__ import annotations

import os
import socket
import threading
from datetime import timedelta
from typing import Any

import psutil
import pytest
import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore, TCPStore
from torch.distributed.rendezvous import rendezvous as torch_rendezvous

from aspo_megatron.config import ParallelConfig, PlatformConfig
from aspo_megatron.errors import UserError
from aspo_megatron.launch.addresses import free_ports
from aspo_megatron.launch.loopback import is_loopback, loopback_interface
from aspo_megatron.parallel.grid import rendezvous
from aspo_megatron.parallel.grid.rendezvous import interfaces, meet, stays_here
from aspo_megatron.parallel.grid.topology import process_grid
from aspo_megatron.rewards.programs.jail import kernel
from aspo_megatron.rollout.weight_sync.transfer_group import TransferGroup
from distributed import Ranks

pytestmark = pytest.mark.timeout(120)


def listening() -> set[tuple[str, int]]:
    """Addresses and ports at which this process listens."""
    found = psutil.Process().net_connections("inet")
    return {(one.laddr.ip, one.laddr.port) for one in found if one.status == psutil.CONN_LISTEN}


def receive(port: int) -> None:
    """What a server's rank does: it joins a group, and takes a tensor."""
    patience = timedelta(seconds=60)
    store, _, _ = next(torch_rendezvous(f"tcp://127.0.0.1:{port}", 1, 2, timeout=patience))
    prefixed = PrefixStore("cpu/", PrefixStore("sync/", PrefixStore("sync", store)))
    group: Any = dist.ProcessGroupGloo(prefixed, 1, 2, patience)
    group.broadcast([torch.zeros(3)], dist.BroadcastOptions()).wait()


def doors(name: str, ranks: int) -> set[tuple[str, int]]:
    """Where a rank listens on a machine of this name, its leader in a group with a server besides."""
    before, own_name = listening(), socket.gethostname()
    if name:
        kernel.unshare(kernel.CLONE_NEWUTS)
        socket.sethostname(name)
    try:
        layout = ParallelConfig(dp=ranks)
        with process_grid(layout, PlatformConfig(device="cpu", timeout_minutes=1), seed=1) as topology:
            dist.all_reduce(torch.zeros(1))
            if topology.is_leader:
                (port,) = free_ports(1, "127.0.0.1")
                server = threading.Thread(target=receive, args=(port,), daemon=True)
                server.start()
                group = TransferGroup("127.0.0.1", port, "sync", 1, "gloo", 60.0, 60.0)
                group.send([torch.ones(3)])
                server.join(60.0)
            found = listening() - before
            dist.barrier()
            if topology.is_leader:
                group.close()
    finally:
        if name:
            socket.sethostname(own_name)
    return found


def outside() -> str:
    """An address of this machine that others reach."""
    for found in psutil.net_if_addrs().values():
        for one in found:
            if one.family == socket.AF_INET and not is_loopback(one.address):
                return one.address
    pytest.skip("this machine has no address but loopback")


@pytest.mark.distributed
@pytest.mark.parametrize("name", ["its own", "an address that others reach"])
def test_nobody_else_reaches_ranks_of_one_machine(ranks: Ranks, name: str) -> None:
    if name != "its own" and os.geteuid() != 0:
        pytest.skip("only root gives a machine another name")
    machine = "" if name == "its own" else outside()
    leader, other = ranks.run(2, doors, machine, 2)
    (alone,) = ranks.run(1, doors, machine, 1)
    assert {address for address, _ in (*leader, *other, *alone)} == {"127.0.0.1"}
    assert len(leader) >= 3  # the store, gloo, and a group for weights
    assert len(other) >= 1


@pytest.mark.parametrize("address", ["0.0.0.0", "192.0.2.77", "node7.example.com", "127.0.0.1.example.com", "::", ""])
@pytest.mark.parametrize("of_torchrun", [None, "True"])
def test_ranks_of_several_machines_meet_as_torchrun_has_them(
    monkeypatch: pytest.MonkeyPatch, address: str, of_torchrun: str | None
) -> None:
    env = {"MASTER_ADDR": address} | ({"TORCHELASTIC_USE_AGENT_STORE": of_torchrun} if of_torchrun else {})
    assert not stays_here(env)
    assert not stays_here(
        {"TORCHELASTIC_USE_AGENT_STORE": "True", "MASTER_ADDR": "127.0.0.1"}
    )  # torchrun has the store
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", address)
    joined: list[object] = []
    monkeypatch.setattr(dist, "init_process_group", lambda *given, **named: joined.append((given, named)))
    with interfaces(2, servers_elsewhere=False):
        assert "GLOO_SOCKET_IFNAME" not in os.environ
    meet("gloo", 2, timedelta(seconds=1))
    assert joined == [(("gloo",), {"timeout": timedelta(seconds=1)})]


@pytest.mark.parametrize(
    ("address", "size", "elsewhere", "set_by_user", "gloo", "nccl"),
    [
        ("127.0.0.1", 2, False, {}, "here", "here"),
        ("localhost", 8, False, {}, "here", "here"),
        ("::1", 2, False, {}, "here", "here"),
        ("127.1", 2, False, {}, "here", "here"),
        ("0x7f.1", 2, False, {}, "here", "here"),
        ("127.0.0.1", 2, True, {}, "here", None),
        ("127.0.0.1", 1, False, {}, "here", "here"),
        ("", 1, False, {}, "here", "here"),
        ("node7", 1, False, {}, "here", "here"),
        ("", 1, True, {}, "here", None),
        ("", 2, False, {}, None, None),
        ("node7", 2, False, {}, None, None),
        ("127.0.0.1", 2, False, {"GLOO_SOCKET_IFNAME": "ib0"}, "ib0", "here"),
        ("127.0.0.1", 2, False, {"NCCL_SOCKET_IFNAME": "ib0"}, "here", "ib0"),
        ("127.0.0.1", 2, True, {"NCCL_SOCKET_IFNAME": "ib0"}, "here", "ib0"),
        ("node7", 2, False, {"GLOO_SOCKET_IFNAME": "ib0"}, "ib0", None),
    ],
)
def test_interfaces(
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    size: int,
    elsewhere: bool,
    set_by_user: dict[str, str],
    gloo: str | None,
    nccl: str | None,
) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (set_by_user | {"MASTER_ADDR": address}).items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with interfaces(size, elsewhere):
        found = [os.environ.get(name) for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")]
    loopback = loopback_interface()
    # Of NCCL's names the beginning counts, unless it is told otherwise.
    assert found == [loopback if gloo == "here" else gloo, f"={loopback}" if nccl == "here" else nccl]
    assert dict(os.environ) == before


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1", "0x7f.1", "127.0.0.2", "::ffff:127.0.0.1", "localhost"])
def test_the_store_listens_at_an_address_of_this_machine_alone(
    monkeypatch: pytest.MonkeyPatch, port: int, address: str
) -> None:
    for name, value in {"MASTER_ADDR": address, "MASTER_PORT": str(port), "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert stays_here(os.environ)
    before = listening()
    store = rendezvous.store_of_this_machine(0, 1, timedelta(seconds=20))
    (found,) = listening() - before
    assert is_loopback(found[0])
    assert found[1] == port
    assert TCPStore(address, port, is_master=False, timeout=timedelta(seconds=20)).num_keys() >= 0
    del store


def test_a_port_that_is_taken_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": "0"}.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(UserError, match=rf"^MASTER_ADDR=127\.0\.0\.1 MASTER_PORT={port}: rank 0 cannot listen"):
            meet("gloo", 2, timedelta(seconds=1))
