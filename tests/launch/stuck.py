"""Pipes, terminals and sockets that are full, and that nobody reads."""

from __future__ import annotations

import contextlib
import os
import select
import socket
from collections.abc import Iterator

HOW = ("pipe", "pipe that does not block", "terminal", "socket")


@contextlib.contextmanager
def stuck(how: str) -> Iterator[tuple[int, int]]:
    """Descriptors to read from and to write to, filled with x."""
    if how == "terminal":
        reading, writing = os.openpty()
    elif how == "socket":
        reading, writing = (one.detach() for one in socket.socketpair())
    else:
        reading, writing = os.pipe()
    os.set_blocking(writing, False)
    # A terminal hands on what it was given a moment later, and has room again.
    while select.select([], [writing], [], 0.2)[1]:
        with contextlib.suppress(BlockingIOError):
            while os.write(writing, b"x" * 256):
                pass
    os.set_blocking(writing, how != "pipe that does not block")
    try:
        yield reading, writing
    finally:
        os.close(reading)
        os.close(writing)


def read_what_is_there(reading: int) -> bytes:
    """All that was written so far."""
    found = b""
    while select.select([reading], [], [], 0)[0] and (data := os.read(reading, 1 << 20)):
        found += data
    return found
