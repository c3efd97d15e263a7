"""Signals that ask to stop, before there is anything to save and after."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import TYPE_CHECKING

from aspo_megatron.launch.rank import PARENT_VARIABLE

if TYPE_CHECKING:
    import torch

ENDING = (signal.SIGINT, signal.SIGHUP)
"""Signals that end a run at once."""

STARTING = threading.Lock()
"""Held while a worker process is started, and for good once a signal ends this one.

So that none is left half started, which would find nothing to read, and write a traceback.
"""

_LONGEST_START_SECONDS = 5.0


@contextlib.contextmanager
def handled(numbers: Sequence[signal.Signals], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Meanwhile `handler` gets these signals. Ignored ones stay ignored: nohup and background jobs ask for that."""
    before = {number: signal.getsignal(number) for number in numbers}
    before = {number: own for number, own in before.items() if own not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, own in before.items():
            signal.signal(number, own)


@contextlib.contextmanager
def ended_by_signals(numbers: Sequence[signal.Signals], well: Sequence[signal.Signals] = ()) -> Iterator[None]:
    """Meanwhile a signal ends this process at once, in one line: by one of `well` with exit code 0.

    For the time in which there is nothing to save. An exception would not do: thrown in the middle of an import, it
    arrives as another error, or as a traceback that nobody can catch. Nor would a handler of Python's: it waits until
    the main thread comes back from a library, as from meeting other ranks that are gone. So a thread is told.
    """
    heard: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    def end(number: int) -> None:
        asked = number in well
        name = signal.Signals(number).name
        text = f"stopped by {name} before the first step; the same command begins anew, or resumes from the last state"
        with contextlib.suppress(OSError):
            os.write(1 if asked else 2, f"{text if asked else f'interrupted by {name}'}\n".encode())
        STARTING.acquire(timeout=_LONGEST_START_SECONDS)
        os._exit(0 if asked else 128 + number)

    def listen() -> None:
        while number := os.read(reading, 1)[0]:
            # Others may have put handlers over these since, for what comes later.
            if number in heard or signal.getsignal(number) is note:
                end(number)

    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    listening = threading.Thread(target=listen, name="signals", daemon=True)
    listening.start()
    others = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        with handled((*numbers, *well), note):
            yield
    finally:
        signal.set_wakeup_fd(others)
        os.write(writing, b"\0")  # no signal; a process that was forked meanwhile may keep the pipe open
        listening.join()
        os.close(writing)
        os.close(reading)


class StopRequest:
    """A request to stop: noted when the signal comes, granted by all ranks together after a step.

    Notes SIGUSR1, and SIGTERM where no `launch` stands between this rank and the job scheduler: `launch` turns SIGTERM
    into SIGUSR1, and ends ranks by SIGTERM when one of them has failed.
    """

    def __init__(self) -> None:
        """Take over the signals; they were blocked until now under `launch`."""
        self._wanted = False
        numbers = [signal.SIGUSR1]
        if PARENT_VARIABLE not in os.environ:
            numbers.append(signal.SIGTERM)
        for number in numbers:
            signal.signal(number, self._note)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._wanted = True

    def agree(self, busy: bool, device: torch.device) -> tuple[bool, bool]:
        """Whether any rank was asked to stop, and whether any is `busy`. A collective."""
        import torch
        import torch.distributed as dist

        both = torch.tensor([self._wanted, busy], dtype=torch.int32, device=device)
        dist.all_reduce(both, op=dist.ReduceOp.MAX)
        stop, someone_busy = both.tolist()
        return bool(stop), bool(someone_busy)
