"""Writing what is shown: a stream that takes nothing more never ends a run, nor keeps it waiting."""

from __future__ import annotations

import copy
import errno
import io
import os
import select
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import IO, TextIO, cast

from rich.console import Console

_PATIENCE_SECONDS = 5.0
_AT_ONCE = 512  # bytes; a pipe that has room at all has room for them
_MAY_PASS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EAGAIN)


class ShownStream(io.TextIOBase):
    """Text for another stream, unbuffered. What cannot be written is left out; the first time it is said on stderr.

    A disk may get room, and a reader may read on: then the following is shown again. Other errors are for good. A
    reader that stands still is waited for once, a few seconds.
    """

    def __init__(self, stream: TextIO | None, name: str) -> None:
        """`stream`: None if its descriptor was closed at the start. `name`: what it is called, e.g. stdout."""
        self._stream, self._name = stream, name
        self._said = self._over = False
        self._descriptor = _descriptor_of(stream)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        try:
            return self._stream is not None and self._stream.isatty()
        except (OSError, ValueError):  # closed
            return False

    def fileno(self) -> int:
        """That of the stream.

        Raises:
            io.UnsupportedOperation: it has none.
        """
        if self._descriptor is None:
            raise io.UnsupportedOperation("fileno")
        return self._descriptor

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, text: str) -> int:
        """Show the text, if that is possible. What the encoding lacks is written as an escape."""
        if self._stream is not None and not self._over:
            data = text.encode(self.encoding, errors="backslashreplace")
            try:
                if self._descriptor is None:
                    self._stream.write(data.decode(self.encoding))
                    self._stream.flush()
                else:
                    self._pass_on(self._descriptor, data)
            except OSError as error:
                self._over = error.errno not in _MAY_PASS
                self._say(error.strerror or str(error))
            except ValueError as error:  # Python's stream was closed
                self._over = True
                self._say(str(error))
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""

    def _pass_on(self, descriptor: int, data: bytes) -> None:
        patience = 0.0 if self._said else _PATIENCE_SECONDS
        deadline = time.monotonic() + patience
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        while data:
            if not poll.poll(1000 * max(0.0, deadline - time.monotonic())):
                raise BlockingIOError(errno.EAGAIN, "its reader stands still")
            try:
                data = data[os.write(descriptor, data[:_AT_ONCE]) :]
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise

    def _say(self, reason: str) -> None:
        if not self._said:
            self._said = True
            if self._name != "stderr":
                say(f"warning: {self._name} cannot be written ({reason}); this goes on, and is not shown there")


def say(text: str) -> None:
    """Show a line on stderr, if that is possible."""
    ShownStream(sys.stderr, "stderr").write(f"{text}\n")


def shown_console(console: Console | None) -> Console:
    """A console like the given one (by default, one of stdout), whose file never fails."""
    shown = copy.copy(console) if console else Console(soft_wrap=True)
    if not isinstance(shown.file, ShownStream):
        shown.file = cast(IO[str], ShownStream(cast(TextIO, shown.file), "stdout"))
    return shown


@contextmanager
def stdout_never_fails() -> Iterator[None]:
    """While it lasts, what is printed goes through a `ShownStream`, the prints of libraries too."""
    with redirect_stdout(cast(IO[str], ShownStream(sys.stdout, "stdout"))):
        yield


def _descriptor_of(stream: TextIO | None) -> int | None:
    """The descriptor that a stream writes to, if it has one."""
    if stream is None:
        return None
    with suppress(OSError, ValueError):
        stream.flush()  # what was printed before comes before
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None
