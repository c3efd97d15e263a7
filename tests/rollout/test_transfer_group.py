"""Groups for broadcasts of weights: a server that hangs, dies or is slow is a server's failure, not the trainer's."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from datetime import timedelta
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from aspo_megatron.launch.addresses import free_ports
from aspo_megatron.rollout.client import ServerClient, ServerError
from aspo_megatron.rollout.weight_sync import transfer_group, transports
from aspo_megatron.rollout.weight_sync.transfer_group import TransferGroup
from aspo_megatron.rollout.weight_sync.transports import DistributedTransport

JOIN, SEND, LEAVE = "/init_weights_update_group", "/update_weights_from_distributed", "/destroy_weights_update_group"


class Server(ServerClient):
    """Answers what it is asked for, unless it is told to fail; notes what it was asked."""

    url = "http://127.0.0.1:1"

    def __init__(self, failing: str | None = None, partner: threading.Event | None = None) -> None:
        self.failing, self.partner = failing, partner
        self.leaving, self.met = threading.Event(), False

    async def post(self, path: str, body: Mapping[str, Any] | bytes, timeout_seconds: float) -> None:
        if path == self.failing:
            raise ServerError(self.url, f"no answer to {path}")
        if path == LEAVE:
            self.leaving.set()
            if self.partner is not None:
                self.met = await asyncio.to_thread(self.partner.wait, timeout_seconds)
                if not self.met:
                    raise ServerError(self.url, f"no answer to {path} within {timeout_seconds:g} s")


class Group:
    """Stands in for a group. Its parts may block, as NCCL does."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.closing, self.abandoned, self.let_go = threading.Event(), threading.Event(), threading.Event()
        self.was_let_go = threading.Event()
        self.met = False

    def send(self, tensors: list[torch.Tensor]) -> None:
        self.let_go.wait(30.0)

    def abandon(self) -> None:
        self.abandoned.set()
        if self.let_go.wait(30.0):
            self.was_let_go.set()

    def close(self) -> None:
        self.closing.set()
        self.met = self.server.leaving.wait(20.0)


def joined(monkeypatch: pytest.MonkeyPatch, server: Server) -> tuple[DistributedTransport, Group]:
    group = Group(server)
    monkeypatch.setattr(transports, "TransferGroup", lambda *arguments: group)
    transport = DistributedTransport("gloo", 1, 5.0)
    asyncio.run(transport.join(server))
    return transport, group


def test_server_and_trainer_leave_a_group_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Either returns only when the other one leaves too."""
    server = Server()
    transport, group = joined(monkeypatch, server)
    server.partner = group.closing
    asyncio.run(transport.leave(server))
    assert group.met
    assert server.met


def test_a_server_that_does_not_leave_is_not_waited_for_beyond_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports, "_LEAVE_SECONDS", 0.5)
    server = Server(partner=threading.Event())
    transport, group = joined(monkeypatch, server)
    asyncio.run(transport.leave(server))
    assert group.met
    refusing = Server(failing=LEAVE)
    transport, group = joined(monkeypatch, refusing)
    refusing.leaving.set()
    asyncio.run(transport.leave(refusing))
    assert group.closing.is_set()


def test_ending_a_broadcast_does_not_hold_up_what_the_other_servers_are_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server(failing=SEND)
    transport, group = joined(monkeypatch, server)
    prepared = transport.prepare([("w", torch.zeros(1))])

    async def run() -> None:
        sending = asyncio.ensure_future(transport.send(server, prepared))
        while not group.abandoned.is_set():
            await asyncio.sleep(0.01)
        group.let_go.set()  # which another server's request stands for: this goes on while the group is abandoned
        with pytest.raises(ServerError, match=SEND):
            await sending

    asyncio.run(run())
    assert group.was_let_go.wait(20.0)


@pytest.mark.parametrize("first", ["the server's refusal", "the group"])
def test_a_group_that_forms_after_the_server_has_refused_is_left(monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    server = Server(failing=JOIN)
    server.leaving.set()
    group, refused = Group(server), threading.Event()

    def form(*arguments: Any) -> Group:
        assert first == "the group" or refused.wait(10.0)
        return group

    monkeypatch.setattr(transports, "TransferGroup", form)
    transport = DistributedTransport("gloo", 1, 5.0)
    with pytest.raises(ServerError, match=JOIN):
        asyncio.run(transport.join(server))
    refused.set()
    assert group.closing.wait(10.0)


@pytest.mark.parametrize("set_by_user", [None, "0"])
def test_no_watchdog_ends_the_process_for_a_server(monkeypatch: pytest.MonkeyPatch, set_by_user: str | None) -> None:
    """PyTorch's group of NCCL reads the variable as it is made: with it there is no watchdog, and `wait` raises."""
    if set_by_user is None:
        monkeypatch.delenv("TORCH_NCCL_BLOCKING_WAIT", raising=False)
    else:
        monkeypatch.setenv("TORCH_NCCL_BLOCKING_WAIT", set_by_user)
    seen: dict[str, Any] = {}

    def form(*arguments: Any, timeout: timedelta, **named: Any) -> tuple[MagicMock, None]:
        seen.update(timeout=timeout, blocking=os.environ.get("TORCH_NCCL_BLOCKING_WAIT"))
        return MagicMock(), None

    monkeypatch.setattr(transfer_group, "_new_process_group_helper", form)
    monkeypatch.setattr(transfer_group, "TCPStore", MagicMock())
    monkeypatch.setattr(transfer_group, "PrefixStore", MagicMock())
    monkeypatch.setattr(transfer_group, "_world", MagicMock())
    monkeypatch.setattr(torch.cuda, "Stream", MagicMock())
    transport = DistributedTransport("nccl", 1, 300.0)
    asyncio.run(transport.join(Server()))
    assert seen["blocking"] == "1"
    assert os.environ.get("TORCH_NCCL_BLOCKING_WAIT") == set_by_user
    # The request finds out first, and the broadcast is ended by it.
    assert seen["timeout"] > timedelta(seconds=300)


def test_all_of_a_bucket_is_on_its_way_before_any_of_it_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Work:
        def wait(self) -> None:
            order.append("wait")

    def broadcast(tensor: torch.Tensor, src: int, group: Any, async_op: bool = False) -> Work | None:
        order.append("broadcast")
        return Work() if async_op else None

    monkeypatch.setattr(dist, "broadcast", broadcast)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "default_stream", MagicMock())
    group = TransferGroup.__new__(TransferGroup)
    group._group, group._stream, group._busy = MagicMock(), MagicMock(), threading.Lock()
    group.send([torch.zeros(1), torch.zeros(1)])
    assert order == ["broadcast", "broadcast", "wait", "wait"]
    group._stream.synchronize.assert_called_once()


class Peer:
    """Joins a group as a server's rank: meets at the store, connects if it is well, and receives a tensor of ones."""

    def __init__(self, port: int, name: str, well: bool = True, rests: float = 0.0) -> None:
        self.met, self.received = threading.Event(), torch.zeros(1 << 24)  # more than a socket takes unread
        self._port, self._name, self._well, self._rests = port, name, well, rests
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        patience = timedelta(seconds=20)
        store, _, _ = next(rendezvous(f"tcp://127.0.0.1:{self._port}", 1, 2, timeout=patience))
        self.met.set()
        if not self._well:
            return
        # As `_new_process_group_helper` does; of a name it makes one group in a process.
        prefixed = PrefixStore("cpu/", PrefixStore(f"{self._name}/", PrefixStore(self._name, store)))
        group: Any = dist.ProcessGroupGloo(prefixed, 1, 2, patience)
        time.sleep(self._rests)
        with suppress(RuntimeError):  # the other side may leave without a word
            group.broadcast([self.received], dist.BroadcastOptions()).wait()


def test_a_group_forms_in_a_process_of_torchruns(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    """Whose `rendezvous` takes it that torchrun hosts the store, at every address."""
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    peer = Peer(port, "of torchrun")
    group = TransferGroup("127.0.0.1", port, "of torchrun", 1, "gloo", 5.0, 20.0)
    group.send([torch.ones(1 << 24)])
    peer.thread.join(20.0)
    group.close()
    assert torch.equal(peer.received, torch.ones(1 << 24))


def test_a_server_that_does_not_connect_holds_up_no_other() -> None:
    ports = free_ports(2)
    sick = Peer(ports[0], "sick", well=False)
    failed: list[float] = []
    begin = time.monotonic()

    def form() -> None:
        with pytest.raises(RuntimeError):
            TransferGroup("127.0.0.1", ports[0], "sick", 1, "gloo", 4.0, 60.0)
        failed.append(time.monotonic() - begin)

    forming = threading.Thread(target=form, daemon=True)
    forming.start()
    assert sick.met.wait(10.0)
    time.sleep(0.5)  # it connects by now, or tries to
    Peer(ports[1], "well")
    group = TransferGroup("127.0.0.1", ports[1], "well", 1, "gloo", 4.0, 60.0)
    assert not failed
    group.close()
    forming.join(20.0)
    assert failed
    assert failed[0] < 15.0  # the patience of joining, and not of sending


def test_receiving_may_take_longer_than_joining(port: int) -> None:
    peer = Peer(port, "slow", rests=2.0)
    group = TransferGroup("127.0.0.1", port, "slow", 1, "gloo", 1.0, 20.0)
    group.send([torch.ones(1 << 24)])
    peer.thread.join(20.0)
    group.close()
    assert torch.equal(peer.received, torch.ones(1 << 24))
