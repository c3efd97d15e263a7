"""A file of lines, each of which is written whole: what the disk does not take waits in memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from aspo_megatron.reading import MOST_BYTES

_BLOCK = 1 << 16


class LineFile:
    """Lines that are added at the end of a file, which is opened, or made, as the first is written."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self._waiting = bytearray()

    @property
    def waiting(self) -> int:
        """Bytes that are not written yet."""
        return len(self._waiting)

    def add(self, line: bytes) -> None:
        """Have a line written by the next `write`."""
        self._waiting += line

    def write(self) -> None:
        """Write what waits. After a part of a line the rest of it is what is written next.

        Raises:
            OSError: the rest waits on.
        """
        if self._descriptor is None:
            self._descriptor = _open(self.path)
        while self._waiting:
            # Unbuffered: a Python file object would try to write what the full disk refused once more on closing.
            del self._waiting[: os.write(self._descriptor, self._waiting)]

    def to_disk(self) -> None:
        """Have the kernel write to the disk what it was given.

        Raises:
            OSError: it cannot.
        """
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def close(self) -> None:
        """Close the file."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _open(path: Path) -> int:
    """A descriptor that appends to `path`, after its last whole line: a kill may have left a part of one."""
    if path.is_file():
        with path.open("r+b") as file:
            size = file.seek(0, os.SEEK_END)
            end = _end_of_lines(file, size)
            if end is None:
                file.seek(size)
                file.write(b"\n")
            elif end < size:
                file.truncate(end)
    # A pipe that nobody reads is an error then, instead of a wait for ever.
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o644)


def _end_of_lines(file: BinaryIO, size: int) -> int | None:
    """Where the last whole line ends; None if what follows it is longer than any line, and so no part of one."""
    first = max(0, size - MOST_BYTES)
    start = size
    while start > first:
        start = max(first, start - _BLOCK)
        file.seek(start)
        found = file.read(_BLOCK).rfind(b"\n")
        if found >= 0:
            return start + found + 1
    return None if first else 0
