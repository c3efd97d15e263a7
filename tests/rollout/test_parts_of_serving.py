"""What servers on several machines leave for each other, how they are ended, and both sides of a transfer."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from aspo_megatron.rollout.client import ServerError
from aspo_megatron.rollout.sglang import local_servers
from aspo_megatron.rollout.sglang.serving import SharedFolder
from aspo_megatron.rollout.weight_sync.transports import _both

STUBBORN = """
import os, signal, sys, time
if os.fork():
    time.sleep(3600)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print(os.getpid(), flush=True)
time.sleep(3600)
"""


def test_the_last_machine_that_is_ready_brings_all_addresses_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "addresses-a.17.partial").write_text("http://half\n")
    for node, urls in (("b", ["http://b:1", "http://b:2"]), ("a", ["http://a:1"])):
        assert not (tmp_path / "addresses").exists()
        monkeypatch.setenv("SLURMD_NODENAME", node)
        SharedFolder(tmp_path, nodes=2).add(urls)
    assert (tmp_path / "addresses").read_text() == "http://a:1\nhttp://b:1\nhttp://b:2\n"


def test_what_a_server_has_started_ends_with_it() -> None:
    command = [sys.executable, "-c", STUBBORN]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    child = psutil.Process(int(process.stdout.readline()))
    local_servers._end([process])
    assert process.poll() is not None
    gone, _ = psutil.wait_procs([child], timeout=20)
    assert gone or child.status() == psutil.STATUS_ZOMBIE
    process.stdout.close()


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_a_transfer_is_done_when_both_sides_say_so(first: str) -> None:
    """A server may refuse what it has received."""

    class Refuses:
        url = "http://a:1"

        async def post(self, path: str, body: bytes, timeout_seconds: float) -> Any:
            await asyncio.sleep(0.1 if first == "ours" else 0)
            raise ServerError(self.url, "refused", 400)

    async def run() -> None:
        ours: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        if first == "ours":
            ours.set_result(7)
        await _both(Refuses(), "/update", b"", 5.0, ours)  # type: ignore[arg-type]

    with pytest.raises(ServerError, match="refused"):
        asyncio.run(run())
