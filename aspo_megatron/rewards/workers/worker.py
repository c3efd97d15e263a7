"""The side of the reward pool that runs in the worker processes.

Workers are light: nothing here imports torch, nor does a worker import the script that started the run.
"""

from __future__ import annotations

import os
import pickle
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType

from aspo_megatron.config import RewardConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.launch import garbage
from aspo_megatron.rewards import scorers
from aspo_megatron.rewards.mixture import Score
from aspo_megatron.rewards.workers.messages import WorkersEnd

_GRACE_SECONDS = 2.0
_LONGEST_ERROR = 2000
_MEMORY = 2 << 30
"""Bytes of address space for scoring, besides what a worker has once its scorer is loaded."""

_Scorer = Callable[[Problem, str], Score]


def main(connection: socket.socket) -> None:
    """All that a worker does: it gets the configuration, then problems with responses, until it is killed.

    It answers `ready`, then for each response `begun`, and `done` with value, parts, error, whether the process was
    stopped, and seconds.
    """
    status = 1
    try:
        continued = _Continued()
        _settle_signals(continued)
        _serve(WorkersEnd(connection), continued)
        status = 0
    except BaseException:  # `SystemExit` in a user's module, too
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(Exception):
                stream.flush()
        os._exit(status)  # Threads that a scorer has started would keep the process.


class _Continued:
    """Notes that the process was stopped, by the signal that has it go on."""

    def __init__(self) -> None:
        self.noted = False

    def note(self, number: int, frame: FrameType | None) -> None:
        self.noted = True


def _settle_signals(continued: _Continued) -> None:
    # A Python handler of SIGTERM would never run while C code holds the interpreter, as big-integer arithmetic does.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    # Control-C is for the parent, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Slurm may send the signal by which a run is to stop to all processes of a rank.
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.signal(signal.SIGCONT, continued.note)
    signal.siginterrupt(signal.SIGCONT, False)
    # The parent has them blocked, so that none ends a worker that has not come to this line.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _serve(connection: WorkersEnd, continued: _Continued) -> None:
    own = os.getpid()
    config = RewardConfig.model_validate_json(connection.read(connection.size() or 0))
    scorer = scorers.build(config)  # before the first task, so that imports count to no one's time limit
    garbage.started()
    if scorers.is_built_in(config):
        limit_memory()
    answers: list[tuple[object, ...]] = [("ready",)]
    while True:
        if not connection.has_next:  # else they go with the next word
            connection.send(*answers)
            answers.clear()
        size = connection.size()
        if size is None:
            return
        continued.noted = False
        connection.send(*answers, ("begun",))
        start = time.perf_counter()
        scored, error = _score(scorer, config.timeout_seconds, connection.read(size))
        if os.getpid() != own:
            os._exit(0)  # a process that the scorer has forked, and let return
        seconds = time.perf_counter() - start
        answers = [("done", scored.value, dict(scored.parts), error, continued.noted, seconds)]


def limit_memory() -> None:
    """Have what needs too much memory raise MemoryError, for a reward of 0, before the machine has none left.

    The soft limit only: programs in a sandbox have one of their own.
    """
    with open("/proc/self/statm", encoding="ascii") as file:
        present = int(file.read().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = present + _MEMORY
    if soft == resource.RLIM_INFINITY or soft > wanted:
        resource.setrlimit(resource.RLIMIT_AS, (wanted, hard))


def _score(scorer: _Scorer, timeout_seconds: float, task: bytearray) -> tuple[Score, str | None]:
    """The reward, and what went wrong if something did (the reward is 0 then)."""
    # The parent sees to the time limit. Should it be stopped itself, the kernel's alarm ends the process.
    signal.setitimer(signal.ITIMER_REAL, timeout_seconds + _GRACE_SECONDS)
    try:
        problem, response = pickle.loads(task)
        return scorer(problem, response), None
    except BaseException as error:
        return Score(0.0), describe(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)


def describe(error: BaseException) -> str:
    """One line: the error and where it was raised."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    try:
        text = " ".join(str(error).split()).encode(errors="backslashreplace").decode()
    except Exception:  # a class of the user's
        text = ""
    if len(text) > _LONGEST_ERROR:
        text = text[:_LONGEST_ERROR] + " ..."
    return f"{type(error).__name__}: {text} ({os.path.basename(last.filename)}:{last.lineno})"
