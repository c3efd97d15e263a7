"""The side of the reward pool that runs in the worker processes.

Workers are light: nothing here imports torch, nor does a worker import the script that started the run.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import cache
from multiprocessing.context import SpawnContext, SpawnProcess
from multiprocessing.process import BaseProcess
from threading import Thread
from types import ModuleType
from typing import Any

from aspo_megatron.config import RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.rewards import scorers
from aspo_megatron.rewards.mixture import Score

_GRACE_SECONDS = 2.0


class _WorkerProcess(SpawnProcess):
    """A spawned process that does not import the parent's main module again.

    Python does that so that functions of the main module can be sent to the child. Nothing of it is needed here,
    while it may import torch, or start the run a second time if it is a script without a `__main__` guard.
    """

    @staticmethod
    def _Popen(process_obj: BaseProcess) -> Any:  # noqa: N802 (the name that multiprocessing gives it)
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            return SpawnProcess._Popen(process_obj)
        finally:
            sys.modules["__main__"] = main


class WorkerContext(SpawnContext):
    """Starts worker processes. Spawned, not forked: the parent may run threads of gloo or CUDA."""

    Process = _WorkerProcess


def start(config: str) -> None:
    """Run in each worker before its first task: loads the scorer, so that imports count to no one's time limit."""
    # The parent ends a worker with SIGTERM. A Python handler would never run while C code holds the interpreter,
    # as big-integer arithmetic does.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # Slurm may send the signal by which a run is to stop to all processes of a rank.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    _scorer(config)


def _end_with_parent() -> None:
    """Ends the process when the parent dies, however it dies."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@cache
def _scorer(config: str) -> Callable[[Problem, str], Score]:
    """The scorer of a `RewardConfig` in JSON, made once."""
    return scorers.build(RewardConfig.model_validate_json(config))


def score(config: str, timeout_seconds: float, problem: Problem, response: str) -> tuple[Score, str | None]:
    """The reward, and what went wrong if something did (the reward is 0 then)."""
    # The parent sees to the time limit. Should it be gone, and C code keep `_end_with_parent` from running, the
    # kernel's alarm ends the process.
    signal.setitimer(signal.ITIMER_REAL, timeout_seconds + _GRACE_SECONDS)
    try:
        return _scorer(config)(problem, response), None
    except (Exception, SystemExit) as error:
        return Score(0.0), _describe(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def _describe(error: BaseException) -> str:
    """One line: the error and where it was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({os.path.basename(last.filename)}:{last.lineno})"
