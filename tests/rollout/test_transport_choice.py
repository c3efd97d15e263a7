"""Which way weights go to servers whose NCCL is not the trainer's."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.cuda import nccl

from aspo_megatron.config import RunConfig
from aspo_megatron.errors import UserError
from aspo_megatron.rollout import build
from aspo_megatron.rollout.client import ServerError
from aspo_megatron.rollout.weight_sync import transports
from aspo_megatron.rollout.weight_sync.transports import DistributedTransport

SAID = (
    "NCCL error in: /pytorch/torch/csrc/distributed/c10d/NCCLUtils.cpp:94, invalid usage (run with NCCL_DEBUG=WARN for "
    "details), NCCL version 2.29.7\nncclInvalidUsage: This usually reflects invalid usage of NCCL library.\n"
    "Last error:\nMismatched NCCL version detected : rank 1 version 23007 rank 0 version 22907"
)


def way_of_own_servers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, theirs: str, device: str = "cuda", **servers: Any
) -> tuple[str, list[str]]:
    """The way that a run's own servers are started for, and what is told. `theirs`: what their Python prints."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho a warning; echo '{theirs}'\n", encoding="utf-8", errors="surrogateescape")
    python.chmod(0o755)
    monkeypatch.setattr(nccl, "version", lambda: (2, 29, 7))
    told: list[str] = []
    started: list[str] = []

    class Servers:
        def __init__(self, config: Any, *arguments: Any) -> None:
            started.append(config.sync)

        def __enter__(self) -> SimpleNamespace:
            return SimpleNamespace()

        def __exit__(self, *error: object) -> None:
            pass

    monkeypatch.setattr(build, "LocalServers", Servers)
    settings = {
        "output_dir": "run",
        "model": {"path": str(tmp_path)},
        "data": {"train": {"kind": "jsonl", "path": "p"}},
        "rollout": {"engine": "sglang", "servers": {"python": str(python), **servers}},
    }
    with build.own_servers(RunConfig.model_validate(settings), torch.device(device), told.append):
        (way,) = started
        return way, told


def test_another_nccl_takes_the_way_through_memory_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    way, (told,) = way_of_own_servers(monkeypatch, tmp_path, "NCCL 2 30 7")
    assert way == "tensor"
    assert "NCCL is 2.29.7 here and 2.30.7 in rollout.servers.python=" in told
    assert "nvidia-nccl-cu13" in told


def test_another_nccl_is_refused_where_a_broadcast_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"sync=distributed: NCCL is 2\.29\.7 here and 2\.30\.7 in .*same torch"):
        way_of_own_servers(monkeypatch, tmp_path, "NCCL 2 30 7", sync="distributed")


@pytest.mark.parametrize("theirs", ["NCCL 2 29 7", "ModuleNotFoundError"])
def test_the_same_nccl_broadcasts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, theirs: str) -> None:
    """So does one that cannot be asked for: NCCL will say it."""
    assert way_of_own_servers(monkeypatch, tmp_path, theirs) == ("distributed", [])
    assert way_of_own_servers(monkeypatch, tmp_path, theirs, sync="distributed") == ("distributed", [])


def test_what_is_no_text_is_no_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert way_of_own_servers(monkeypatch, tmp_path, "\udcff")[0] == "distributed"


def test_nothing_else_asks_for_the_version(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert way_of_own_servers(monkeypatch, tmp_path, "NCCL 2 30 7", sync="disk") == ("disk", [])
    assert way_of_own_servers(monkeypatch, tmp_path, "NCCL 2 30 7", device="cpu") == ("distributed", [])


def test_servers_on_the_trainers_gpus_are_given_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert way_of_own_servers(monkeypatch, tmp_path, "NCCL 2 29 7", colocate=True) == ("tensor", [])
    with pytest.raises(UserError, match="NCCL does not connect two processes of one GPU"):
        way_of_own_servers(monkeypatch, tmp_path, "NCCL 2 29 7", colocate=True, sync="distributed")


@pytest.mark.parametrize("first", ["the trainer", "the server"])
def test_another_nccl_of_a_server_elsewhere_is_named(monkeypatch: pytest.MonkeyPatch, first: str) -> None:
    """Whichever of the two says it first; a server's answer is cut off."""

    class Server:
        url = "http://127.0.0.1:7"

        async def post(self, path: str, body: Mapping[str, Any] | bytes, timeout_seconds: float) -> None:
            if path == "/update_weights_from_distributed":
                await asyncio.sleep(2.0 if first == "the trainer" else 0.0)
                raise ServerError(self.url, f"{path} answered 400: {SAID[:100]}", 400)

    class Group:
        def __init__(self, *arguments: Any) -> None:
            pass

        def send(self, tensors: list[torch.Tensor]) -> None:
            raise RuntimeError(SAID)

        def abandon(self) -> None:
            pass

    monkeypatch.setattr(transports, "TransferGroup", Group)
    server: Any = Server()
    transport = DistributedTransport("nccl", 1, 5.0)

    async def sync() -> None:
        await transport.join(server)
        await transport.send(server, transport.prepare([("w", torch.zeros(1))]))

    with pytest.raises(UserError, match=r"http://127.0.0.1:7 .* different versions of NCCL, 2\.30\.7 and 2\.29\.7; "):
        asyncio.run(sync())
