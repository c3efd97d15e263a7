"""What reward workers print: shown as far as that is possible, and never the scorer's concern.

A scorer that prints where nobody reads any more, or on a full disk, would raise; before a reader that stands still it
would wait until its time is over. So workers, and the programs that they start, print into pipes of the rank's own.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import threading
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import TextIO, cast

from aspo_megatron.streams import PATIENCE_SECONDS, ShownStream

_CHUNK = 1 << 16
_READS_AT_THE_END = 256
_SHARE_OF_TIME = 0.25

WorkersOutput = tuple[Connection, Connection]
"""What becomes stdout and stderr of a worker."""


class Output:
    """A thread that shows what workers print. `ends` is for each of them."""

    def __init__(self, timeout_seconds: float) -> None:
        """Start the thread; a reader that stands still is waited for once, a part of a response's time limit."""
        patience = min(PATIENCE_SECONDS, _SHARE_OF_TIME * timeout_seconds)
        ours, theirs = zip(Pipe(duplex=False), Pipe(duplex=False), strict=True)
        self.ends: WorkersOutput = theirs
        self._ours: tuple[Connection, ...] = ours
        streams = cast(tuple[TextIO, TextIO], (sys.stdout, sys.stderr))
        self._shown = {
            end.fileno(): ShownStream(stream, _say_nothing, patience) for end, stream in zip(ours, streams, strict=True)
        }
        self._closed = os.eventfd(0, os.EFD_CLOEXEC)
        self._thread = threading.Thread(target=self._run, name="output of workers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Show what is printed by now, and end the thread: what scorers have started may print on for ever."""
        os.eventfd_write(self._closed, 1)
        self._thread.join()
        os.close(self._closed)
        for end in (*self.ends, *self._ours):
            end.close()

    def _run(self) -> None:
        poll = select.poll()
        for descriptor in (*self._shown, self._closed):
            poll.register(descriptor, select.POLLIN)
        while self._closed not in (ready := [descriptor for descriptor, _ in poll.poll()]):
            for descriptor in ready:
                self._shown[descriptor].show(os.read(descriptor, _CHUNK))
        for descriptor, shown in self._shown.items():
            os.set_blocking(descriptor, False)
            with contextlib.suppress(BlockingIOError):
                for _ in range(_READS_AT_THE_END):
                    shown.show(os.read(descriptor, _CHUNK))


def take_over(output: WorkersOutput) -> None:
    """Make the pipes stdout and stderr of this process, a worker, whose prints are shown line by line."""
    for descriptor, end in enumerate(output, start=1):
        os.dup2(end.fileno(), descriptor)
        end.close()
    if sys.stdout is not None:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]


def _say_nothing(error: OSError) -> None:
    """The rank tells of its streams itself."""
