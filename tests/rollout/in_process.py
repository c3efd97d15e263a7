"""The stand-in of an SGLang server in a thread of this process: there in a moment, and its model can be looked at."""

from __future__ import annotations

from asyncio import Server
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from aiohttp import web
from stand_in.sglang import launch_server

from aspo_megatron.rollout.loop_thread import LoopThread


class InProcessServer:
    """Answers at `url` until it is closed. `died` counts how often a real one would have ended."""

    def __init__(self, folder: Path, key: str, random: bool = False) -> None:
        """See `launch_server.Server`."""
        self.died = 0
        self.server = launch_server.Server(folder, key, random, self._die)
        self._loop = LoopThread("stand-in of a server")
        self._runner, self.url = self._loop.run(self._start())

    def close(self) -> None:
        self._loop.run(self._runner.cleanup())
        self._loop.close()

    async def _start(self) -> tuple[web.AppRunner, str]:
        runner = web.AppRunner(self.server.app(), shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        assert isinstance(site._server, Server)
        return runner, f"http://127.0.0.1:{site._server.sockets[0].getsockname()[1]}"

    def _die(self) -> None:
        self.died += 1
        raise ConnectionResetError("a server would have ended")


@contextmanager
def in_process_servers(folders: Sequence[Path], key: str) -> Iterator[list[InProcessServer]]:
    """One for each model folder."""
    with ExitStack() as stack:
        made = []
        for folder in folders:
            made.append(InProcessServer(folder, key))
            stack.callback(made[-1].close)
        yield made
