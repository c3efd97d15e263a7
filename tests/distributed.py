"""Runs functions in several gloo ranks on this machine.

Importing torch and transformers takes seconds for each process. So a server imports them once and forks the ranks
off, and the ranks live on from one test to the next: a test costs no more than its own work. After a failure all of
them are killed, and the next test gets new ones.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import TracebackType
from typing import Any, ParamSpec, Self, TypeVar

import psutil

from aspo_megatron.launch.addresses import reserved_port

P = ParamSpec("P")
R = TypeVar("R")

_IMPORTED_ONCE = [
    "pytest",
    "torch",
    "transformers.models.llama.modeling_llama",
    "transformers.models.qwen2.modeling_qwen2",
]
"""Not megatron-core, which wants to be imported where its platform is installed."""

_MOST_THREADS = 200


class RankError(Exception):
    """A rank failed, died or was too slow; the message holds the traceback of the one that failed first."""


@dataclass(frozen=True)
class _Rank:
    process: BaseProcess
    pipe: Connection


class Ranks:
    """Ranks of this machine, started when they are first needed. Use as a context manager."""

    def __init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(_IMPORTED_ONCE)
        self._ranks: list[_Rank] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()

    def run(
        self,
        world_size: int,
        function: Callable[P, R],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> list[R]:
        """Call `function` in each of `world_size` ranks at the same time, for two minutes at most.

        The environment of a rank is that of torchrun, with a port of its own for each call: the function may call
        `process_grid` or `init_process_group`.

        Args:
            world_size: number of ranks.
            function: defined in a module; its arguments and its result must pickle.
            args: its arguments.
            kwargs: the same.

        Returns:
            What each rank returned.

        Raises:
            RankError: a rank failed, died, or was too slow. All ranks have been killed then.
        """
        return self.run_within(120.0, world_size, function, *args, **kwargs)

    def run_within(
        self, timeout: float, world_size: int, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs
    ) -> list[R]:
        """`run`, for `timeout` seconds at most."""
        while len(self._ranks) < world_size:
            self._ranks.append(self._start())
        task = pickle.dumps((sys.path, function, args, kwargs))
        try:
            with reserved_port() as port:
                for number, rank in enumerate(self._ranks[:world_size]):
                    rank.pipe.send(_environment(number, world_size, port))
                    rank.pipe.send_bytes(task)
                results = self._results(world_size, timeout)
        except BaseException:
            self.kill()
            raise
        self._end_crowded()
        return results

    def kill(self) -> None:
        """End all ranks at once, whatever they do."""
        self._end(self._ranks)

    def _end(self, ranks: Iterable[_Rank]) -> None:
        ended = list(ranks)
        for rank in ended:
            rank.process.kill()
        for rank in ended:
            rank.process.join()
            rank.pipe.close()
            self._ranks.remove(rank)

    def _end_crowded(self) -> None:
        """End ranks that have kept process groups of earlier calls: their threads wake up all the time."""
        self._end(r for r in self._ranks if psutil.Process(r.process.pid).num_threads() > _MOST_THREADS)

    def _start(self) -> _Rank:
        here, there = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(there,), daemon=True)
        process.start()
        there.close()
        return _Rank(process, here)

    def _results(self, world_size: int, timeout: float) -> list[Any]:
        deadline = time.monotonic() + timeout
        number_of = {rank.pipe: number for number, rank in enumerate(self._ranks[:world_size])}
        results: dict[int, Any] = {}
        while number_of:
            ready = wait(list(number_of), timeout=max(0.0, deadline - time.monotonic()))
            if not ready:
                raise RankError(f"no answer from ranks {sorted(number_of.values())} within {timeout:.0f} s")
            for pipe in ready:
                assert isinstance(pipe, Connection)
                number = number_of.pop(pipe)
                try:
                    succeeded, result = pickle.loads(pipe.recv_bytes())
                except EOFError:
                    self._ranks[number].process.join()
                    raise RankError(f"rank {number} died: {self._ranks[number].process.exitcode}") from None
                if not succeeded:
                    raise RankError(f"rank {number} of {world_size}:\n{result}")
                results[number] = result
        return [results[number] for number in range(world_size)]


def once(function: Callable[P, R]) -> Callable[P, R]:
    """`function`, called once for the same arguments: what it returned, or raised, is kept for those who ask again."""
    kept: dict[Any, tuple[R | None, BaseException | None]] = {}

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        key = (args, tuple(sorted(kwargs.items())))
        if key not in kept:
            try:
                kept[key] = function(*args, **kwargs), None
            except Exception as error:
                kept[key] = None, error
        result, failure = kept[key]
        if failure is not None:
            raise failure
        return result  # type: ignore[return-value]

    return call


def _serve(pipe: Connection) -> None:
    """What a rank does: one call after the other, until the other end is gone."""
    import torch

    torch.set_num_threads(1)
    modules = 0
    while True:
        try:
            environment, task = pipe.recv(), pipe.recv_bytes()
        except EOFError:
            return
        os.environ.update(environment)
        try:
            sys.path[:], function, args, kwargs = pickle.loads(task)
            answer = pickle.dumps((True, function(*args, **kwargs)))
        except BaseException:
            answer = pickle.dumps((False, traceback.format_exc()))
        pipe.send_bytes(answer)
        gc.collect()  # models refer to process groups in circles, and each group has threads
        if len(sys.modules) > modules:  # what has been imported stays, and is not to be looked through after each call
            modules = len(sys.modules)
            gc.freeze()


def _environment(rank: int, world_size: int, port: int) -> dict[str, str]:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
    return {name: str(value) for name, value in numbers.items()} | {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
