"""Ranks that a test may kill: forked from a process that has imported everything, so that a start costs little."""

from __future__ import annotations

import multiprocessing
import os
import signal
import traceback
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

from aspo_megatron.launch.addresses import reserved_port
from distributed import _environment

P = ParamSpec("P")
R = TypeVar("R")


class Server:
    """A process that has megatron-core, and whose functions may call `fork_ranks`. Use as a context manager."""

    def __init__(self, serve: Callable[[Connection], None] | None = None) -> None:
        """`serve`: what else the process does with the calls that come to it."""
        self._serve = serve or _serve

    def __enter__(self) -> Self:
        context = multiprocessing.get_context("forkserver")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=self._serve, args=(theirs,))
        self._process.start()
        theirs.close()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._process.join()

    def run(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call `function`, defined in a module, in the process; what it returned.

        Raises:
            RuntimeError: it failed; the message holds the traceback.
        """
        self._pipe.send((function, args, kwargs))
        succeeded, result = self._pipe.recv()
        if not succeeded:
            raise RuntimeError(result)
        returned: R = result
        return returned


def fork_ranks(world_size: int, main: Callable[..., object], *args: Any) -> list[BaseProcess]:
    """Start `main(*args)` in each of `world_size` ranks. Joining and killing them is the caller's."""
    context = multiprocessing.get_context("fork")
    with reserved_port() as port:  # from here on the ranks hold it, as they are born with what is open here
        ranks: list[BaseProcess] = [
            context.Process(target=_rank, args=(_environment(number, world_size, port), main, args))
            for number in range(world_size)
        ]
        for rank in ranks:
            rank.start()
    return ranks


def kill(ranks: Iterable[BaseProcess]) -> None:
    """SIGKILL each rank, if it lives, with the processes that it has started."""
    for rank in ranks:
        if rank.is_alive():
            assert rank.pid
            os.killpg(rank.pid, signal.SIGKILL)
        rank.join()


def _rank(environment: dict[str, str], main: Callable[..., object], args: tuple[Any, ...]) -> None:
    os.setsid()  # with the processes that it starts, a group that can be killed as one
    os.environ.update(environment)
    main(*args)


def _serve(pipe: Connection) -> None:
    import torch

    from aspo_megatron.parallel.device.platform import CpuPlatform, installed

    torch.set_num_threads(1)
    with installed(CpuPlatform()):
        import aspo_megatron.parallel.model.policy  # noqa: F401
        import aspo_megatron.parallel.update.optimizer  # noqa: F401
        import aspo_megatron.train.trainer  # noqa: F401
    while True:
        try:
            function, args, kwargs = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, function(*args, **kwargs)))
        except BaseException:
            pipe.send((False, traceback.format_exc()))
