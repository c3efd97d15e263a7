"""A limit on processor time for a piece of work, which ends there while its process goes on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

CPU_SECONDS = 2.0
"""Processor time for an answer that is computed with, of which most take some milliseconds."""

_SHARE_OF_TIME = 0.25
_AGAIN_SECONDS = 0.1


def cpu_seconds(timeout_seconds: float) -> float:
    """Processor time for an answer, where its worker is ended after so many seconds."""
    return min(CPU_SECONDS, _SHARE_OF_TIME * timeout_seconds)


class OutOfTimeError(BaseException):
    """The time is used up. No `Exception`, as libraries catch those and go on."""


@contextmanager
def cpu_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTimeError in the block once the process has computed for so long, whatever else the machine does.

    Python code and regular expressions are interrupted, arithmetic of huge numbers is not. Signals reach the main
    thread alone: in another one there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise OutOfTimeError

    former = signal.signal(signal.SIGPROF, stop)
    try:
        # Repeated, as one that is raised in a destructor is lost.
        signal.setitimer(signal.ITIMER_PROF, seconds, _AGAIN_SECONDS)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)  # The line above may have been interrupted itself.
        signal.signal(signal.SIGPROF, former)
