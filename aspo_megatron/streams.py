"""stdin, stdout and stderr as a process may find them: closed, on a full disk, a pipe that nobody reads any more."""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from typing_extensions import Buffer


def open_closed() -> None:
    """Open those of descriptors 0 to 2 that are closed on /dev/null.

    Else the next files that are opened get these numbers, and what anyone prints goes into them.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
    # Python has none for a descriptor that was closed when it started.
    if sys.stdin is None:
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", encoding="utf-8", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)


def warn(error: OSError) -> None:
    """Say that stdout is lost."""
    tell(f"warning: stdout cannot be written ({error.strerror}); what would be shown there is left out\n")


@contextlib.contextmanager
def unfailing(at_first_error: Callable[[OSError], None] = warn) -> Iterator[None]:
    """Meanwhile stdout and stderr leave out what cannot be written; `at_first_error` is called once, for stdout."""
    before = sys.stdout, sys.stderr
    sys.stderr = _shown(before[1], lambda error: None)
    sys.stdout = _shown(before[0], at_first_error)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        sys.stdout, sys.stderr = before


def tell(text: str) -> None:
    """Write to stderr, if that can be."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()


class _Descriptor(io.RawIOBase):
    """Writes to a descriptor what can be written, and leaves out the rest."""

    def __init__(self, descriptor: int, at_first_error: Callable[[OSError], None]) -> None:
        self._descriptor = descriptor
        self._at_first_error: Callable[[OSError], None] | None = at_first_error

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: Buffer, /) -> int:
        left = memoryview(data).cast("B")
        size = len(left)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:
                select.select([], [self._descriptor], [])
            except OSError as error:
                tell_once, self._at_first_error = self._at_first_error, None
                if tell_once:
                    tell_once(error)
                break
        return size


def _shown(stream: TextIO, at_first_error: Callable[[OSError], None]) -> TextIO:
    try:
        stream.flush()
        raw = _Descriptor(stream.fileno(), at_first_error)
    except (OSError, ValueError):  # of no descriptor, as where a program calls this one and keeps what it says
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(raw), encoding=stream.encoding, errors="backslashreplace", line_buffering=True
    )
