"""Groups for broadcasts of weights: a server that hangs, dies or is slow is a server's failure, not the trainer's."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import timedelta
from typing import Any
from unittest.mock import MagicMock

import pytest
import torch

from aspo_megatron.rollout import transfer_group, transports
from aspo_megatron.rollout.server_client import ServerError
from aspo_megatron.rollout.transports import DistributedTransport

JOIN, SEND, LEAVE = "/init_weights_update_group", "/update_weights_from_distributed", "/destroy_weights_update_group"


class Server:
    """Answers what it is asked for, unless it is told to fail; notes what it was asked."""

    url = "http://127.0.0.1:1"

    def __init__(self, failing: str | None = None, partner: threading.Event | None = None) -> None:
        self.failing, self.partner = failing, partner
        self.leaving = threading.Event()

    async def post(self, path: str, body: Mapping[str, Any] | bytes, timeout_seconds: float) -> None:
        if path == self.failing:
            raise ServerError(self.url, f"no answer to {path}")
        if path == LEAVE:
            self.leaving.set()
            if self.partner is not None and not await asyncio.to_thread(self.partner.wait, timeout_seconds):
                raise ServerError(self.url, f"no answer to {path} within {timeout_seconds:g} s")


class Group:
    """Stands in for a group. Its parts may block, as NCCL does."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.closing, self.abandoned, self.let_go = threading.Event(), threading.Event(), threading.Event()
        self.met = False

    def send(self, tensors: list[torch.Tensor]) -> None:
        self.let_go.wait(30.0)

    def abandon(self) -> None:
        self.abandoned.set()
        self.let_go.wait(30.0)

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
    begin = time.monotonic()
    asyncio.run(transport.leave(server))
    assert time.monotonic() - begin < 5.0
    assert group.met


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

    async def run() -> float:
        longest = 0.0
        sending = asyncio.ensure_future(transport.send(server, prepared))
        end = time.monotonic() + 1.0
        while (before := time.monotonic()) < end:
            await asyncio.sleep(0.01)
            longest = max(longest, time.monotonic() - before)
        with pytest.raises(ServerError, match=SEND):
            await sending
        return longest

    try:
        threading.Timer(3.0, group.let_go.set).start()
        assert asyncio.run(run()) < 1.0
        assert group.abandoned.is_set()
    finally:
        group.let_go.set()


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
    monkeypatch.setattr(transfer_group, "rendezvous", lambda *arguments, **named: iter([(MagicMock(), 0, 2)]))
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

    monkeypatch.setattr(transfer_group.dist, "broadcast", broadcast)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "default_stream", MagicMock())
    group = transfer_group.TransferGroup.__new__(transfer_group.TransferGroup)
    group._group, group._stream, group._busy = MagicMock(), MagicMock(), threading.Lock()
    group.send([torch.zeros(1), torch.zeros(1)])
    assert order == ["broadcast", "broadcast", "wait", "wait"]
    group._stream.synchronize.assert_called_once()
