"""How a worker process starts. Light, as a worker is bound to its parent only once it has come through this file."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from contextlib import suppress
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from types import ModuleType
from typing import Any

from aspo_megatron.launch import garbage
from aspo_megatron.launch.stop import STARTING
from aspo_megatron.rewards.programs.jail.kernel import die_with_parent
from aspo_megatron.rewards.workers.output import WorkersOutput, take_over


class _WorkerProcess(SpawnProcess):
    """A spawned process that does not import the parent's main module again.

    Python does that so that functions of the main module can be sent to the child. Nothing of it is needed here,
    while it may import torch, or start the run a second time if it is a script without a `__main__` guard.
    """

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:  # noqa: N802 (the name that multiprocessing gives it)
        with STARTING:
            main = sys.modules["__main__"]
            sys.modules["__main__"] = ModuleType("__main__")
            try:
                return SpawnProcess._Popen(process_obj)
            finally:
                sys.modules["__main__"] = main


class WorkerContext(SpawnContext):
    """Starts worker processes. Spawned, not forked: the parent may run threads of gloo or CUDA."""

    Process = _WorkerProcess


def begin(connection: socket.socket, output: WorkersOutput) -> None:
    """What a worker process does."""
    _end_with_parent()
    with suppress(OSError):  # a scorer that signals its group, taking it for its program's, is not to end the rank
        os.setpgid(0, 0)
    take_over(output)
    garbage.search_rarely()
    from aspo_megatron.rewards.workers import worker

    worker.main(connection)


def _end_with_parent() -> None:
    """Have the kernel end this process when the parent dies, however it dies, and whatever this one does."""
    die_with_parent()
    parent = multiprocessing.parent_process()
    if parent is not None and os.getppid() != parent.pid:
        os._exit(1)  # It was quicker.
