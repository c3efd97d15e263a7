"""Work on foreign input in a process of its own, which may loop, flood memory or crash without harm to this one."""

from __future__ import annotations

import faulthandler
import gc
import math
import os
import resource
import signal
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Never, Self, TypeVar

from aspo_megatron.foreign_text import reason_of

Part = TypeVar("Part")
Result = TypeVar("Result")

_MEMORY = 1 << 30
_MEMORY_OF_CORE = 128 << 20
"""Address space beyond what this process has; the threads of a tokenizer take some each."""
_PATIENCE = 60.0
_SLOWNESS = 20.0
"""Seconds by the clock, and more for each second of computing: the machine may be busy with other things."""


class IsolatedError(Exception):
    """The work failed; says why, as a part of a line."""


class Isolated(Generic[Part, Result]):
    """A process forked from this one, which does one piece of work after the other. Use as a context manager.

    It must not need threads that run in this process, nor a GPU.
    """

    def __init__(self, work: Callable[[Part], Result]) -> None:
        """`work`: called there with each part; what it raises is an `IsolatedError` here.

        Raises:
            IsolatedError: there is no room for another process.
        """
        asked, self._asking = Pipe(duplex=False)
        self._answers, answering = Pipe(duplex=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads, which the work has nothing to do with
            # A signal to the new process is none to this one, which the handlers of Python would tell of it.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
            try:
                self._process = os.fork()
                if self._process == 0:
                    self._asking.close()
                    _serve(work, asked, answering)
            except OSError as error:
                raise IsolatedError(f"no process can be started: {error.strerror}") from error
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        asked.close()
        answering.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._asking.close()
        self._answers.close()
        with suppress(ProcessLookupError):
            os.kill(self._process, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self._process, 0)

    def __call__(self, part: Part, seconds: float) -> Result:
        """What the work makes of `part` in at most so many seconds of computing.

        Raises:
            IsolatedError: the work raised, took longer, took too much memory, or its process ended.
        """
        patience = _PATIENCE + seconds * _SLOWNESS
        try:
            self._asking.send((part, seconds))
            if not self._answers.poll(patience):
                raise IsolatedError(f"no answer in {patience:.0f} s")
            failure, result = self._answers.recv()
        except (EOFError, ConnectionError):
            raise IsolatedError(self._end(seconds)) from None
        if failure is not None:
            raise IsolatedError(failure)
        made: Result = result
        return made

    def _end(self, seconds: float) -> str:
        ended = os.waitid(os.P_PID, self._process, os.WEXITED | os.WNOWAIT)
        if ended is None or ended.si_code == os.CLD_EXITED:
            return "its process ended"
        if ended.si_status == signal.SIGXCPU:
            return f"takes longer than {seconds:.0f} s"
        return f"its process ended by {signal.Signals(ended.si_status).name}, perhaps for want of memory"


def _serve(work: Callable[[Any], Any], asked: Connection, answering: Connection) -> Never:
    """What the forked process does: nothing that belongs to the other one is run, not even at its end."""
    try:
        gc.disable()
        faulthandler.disable()
        _forget_handlers()
        nowhere = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):  # a crash writes a backtrace
            os.dup2(nowhere, descriptor)
        computing = _set_limits()
        while True:
            part, seconds = asked.recv()
            computing(math.ceil(time.process_time() + seconds))
            answering.send((None, work(part)))
    except EOFError:  # the other process has all it wants, or has ended
        pass
    except BaseException as error:  # also what Rust calls a panic
        with suppress(BaseException):
            answering.send((reason_of(error), None))
    finally:
        os._exit(0)


def _forget_handlers() -> None:
    """Let each signal, blocked until now, do here what it does by itself, and nothing in the other process."""
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if callable(signal.getsignal(number)):
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _set_limits() -> Callable[[int], None]:
    """Limit this process's memory; what sets how many seconds it may have computed. A user's own limits stay."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    with suppress(OSError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        has = pages * resource.getpagesize()
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        memory = has + _MEMORY + _MEMORY_OF_CORE * (os.cpu_count() or 1)
        resource.setrlimit(resource.RLIMIT_AS, (_least(memory, soft), hard))
    soft, hard = resource.getrlimit(resource.RLIMIT_CPU)
    return lambda seconds: resource.setrlimit(resource.RLIMIT_CPU, (_least(seconds, soft), hard))


def _least(wanted: int, limit: int) -> int:
    return wanted if limit == resource.RLIM_INFINITY else min(wanted, limit)
