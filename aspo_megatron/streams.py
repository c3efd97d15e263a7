"""stdin, stdout and stderr as a process may find them: closed, on a full disk, a pipe that nobody reads any more."""

from __future__ import annotations

import codecs
import contextlib
import errno
import fcntl
import io
import math
import os
import re
import select
import stat
import sys
import time
from collections.abc import Callable, Iterator
from typing import TextIO, cast

from aspo_megatron.foreign_text import printed, safe

PATIENCE_SECONDS = 5.0
"""How long a run waits for the reader of what it shows, once."""

_AGAIN_SECONDS = 0.01
_MAY_PASS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EAGAIN)
_BAR = re.compile(r"\r|(\x1b\[A)+\Z")
"""How the bars of libraries begin to draw a line anew, and go up to one."""

_TEXT = re.compile("[^\0\udc80-\udcff]+")
"""In what was decoded, all but zeros and the bytes that are no UTF-8."""


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


def say(text: object) -> None:
    """Show lines on stderr, if that is possible; whatever is in them is text there."""
    shown_stderr().write(f"{safe(text)}\n")


def show(text: object, end: str = "\n") -> None:
    """Show lines on stdout, if that is possible; whatever is in them is text there."""
    shown(sys.stdout).write(f"{safe(text)}{end}")


def hand_over(text: str) -> None:
    """Write to stdout what a program is to read: as it is, unless it is a terminal that shows it."""
    stream = shown(sys.stdout)
    if stream.isatty():
        show(text, end="")
    else:
        stream.draw(text)


def warn(error: OSError) -> None:
    """Say that stdout is lost."""
    reason = error.strerror or str(error)
    say(f"warning: stdout cannot be written ({reason}); the command continues, but shows nothing there")


@contextlib.contextmanager
def unfailing(
    at_first_error: Callable[[OSError], None] = warn, patience_seconds: float = PATIENCE_SECONDS
) -> Iterator[None]:
    """Meanwhile stdout and stderr are a `ShownStream` each, for the prints of libraries too.

    `at_first_error` is called for stdout. What stderr cannot take there is no place to tell of.
    """
    before = sys.stdout, sys.stderr
    sys.stdout = cast(TextIO, shown(sys.stdout, at_first_error, patience_seconds))
    sys.stderr = cast(TextIO, shown(sys.stderr, _ignore, patience_seconds))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


class ShownStream(io.TextIOBase):
    """Text for another stream, unbuffered. What cannot be written is left out; `at_first_error` is called once.

    What is printed, by whomever, is plain text there: see `safe`. Only `draw` has colours and moves the cursor.
    A disk may get room, and a reader may read on: then the following is shown again. Other errors are for good. A
    reader that stands still is waited for once, `patience_seconds`.
    """

    def __init__(
        self,
        stream: TextIO | None,
        at_first_error: Callable[[OSError], None] = warn,
        patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        """`stream`: None if its descriptor was closed at the start."""
        self._stream = stream
        self._at_first_error = at_first_error
        self._patience = patience_seconds
        self._failed = self._over = False
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
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
        """Show text, if that is possible. In a terminal, the bar of a library is drawn anew in its line."""
        bar = _BAR.match(text)
        if bar and self.isatty():
            self.draw(bar[0] + printed(text[bar.end() :]))
        else:
            self.draw(printed(f"\n{text[1:]}" if bar and bar[0] == "\r" else text))
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""

    def show(self, data: bytes) -> None:
        """Show what another process has printed, if that is possible; into a file or pipe, what is no text as well."""
        text = self._decoder.decode(data).replace("\r\n", "\n")
        text = text.replace("\r", "\n")  # a bar that is drawn anew begins a new line
        if self.isatty():
            self.draw(safe(text))
        else:
            self._pass(_TEXT.sub(lambda found: safe(found[0]), text).encode("utf-8", errors="surrogateescape"))

    def draw(self, text: str) -> None:
        """Show what is of this program's own making, if that is possible, such as colours.

        What the encoding lacks is written as an escape.
        """
        self._pass(text.encode(self.encoding, errors="backslashreplace"))

    def _pass(self, data: bytes) -> None:
        if self._stream is None or self._over:
            return
        try:
            if self._descriptor is None:
                self._stream.write(data.decode(self.encoding, errors="replace"))
                self._stream.flush()
            else:
                self._pass_on(self._descriptor, data)
        except OSError as error:
            self._fail(error, for_good=error.errno not in _MAY_PASS)
        except ValueError as error:  # Python's stream was closed
            self._fail(OSError(errno.EBADF, str(error)), for_good=True)

    def _pass_on(self, descriptor: int, data: bytes) -> None:
        patience = 0.0 if self._failed else self._patience
        with _unblocking(descriptor) as own:
            poll = select.poll()
            poll.register(own, select.POLLOUT)
            deadline = time.monotonic() + patience
            while data:
                left = max(0.0, deadline - time.monotonic())
                if poll.poll(None if left == math.inf else 1000 * left):
                    try:
                        data = data[os.write(own, data[: select.PIPE_BUF]) :]
                        deadline = time.monotonic() + patience
                        continue
                    except BlockingIOError:  # another process has taken the room
                        time.sleep(min(left, _AGAIN_SECONDS))
                if time.monotonic() >= deadline:
                    raise BlockingIOError(errno.EAGAIN, "its reader stands still")

    def _fail(self, error: OSError, *, for_good: bool) -> None:
        self._over = for_good
        if not self._failed:
            self._failed = True
            self._at_first_error(error)


def shown(
    stream: TextIO | None,
    at_first_error: Callable[[OSError], None] = warn,
    patience_seconds: float = PATIENCE_SECONDS,
) -> ShownStream:
    """A stream that never fails, in front of the given one unless it is one itself."""
    if isinstance(stream, ShownStream):
        return stream
    return ShownStream(stream, at_first_error, patience_seconds)


def shown_stderr() -> ShownStream:
    """What stderr is now, as a stream that never fails."""
    return shown(sys.stderr, _ignore)


def _ignore(error: OSError) -> None:
    pass


def _descriptor_of(stream: TextIO | None) -> int | None:
    """The descriptor that a stream writes to, if it is one of Python's own.

    Those of others, such as a notebook's, know where their text belongs; their `fileno` may be another place.
    """
    if not isinstance(stream, io.TextIOWrapper | ShownStream):
        return None
    with contextlib.suppress(OSError, ValueError):
        stream.flush()  # what was printed before comes before
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):
        return None


@contextlib.contextmanager
def _unblocking(descriptor: int) -> Iterator[int]:
    """A pipe or terminal opened once more, such that no write to it waits; else the descriptor itself.

    There may be room, and none any more when it is written to: other ranks have the same pipe. The descriptor stays
    as it is, for its settings are theirs too.
    """
    own = descriptor
    to_write = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
    if to_write and (stat.S_ISFIFO(os.fstat(descriptor).st_mode) or os.isatty(descriptor)):
        with contextlib.suppress(OSError):  # another user's terminal, for one
            flags = os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
            own = os.open(f"/proc/self/fd/{descriptor}", flags)
    try:
        yield own
    finally:
        if own != descriptor:
            os.close(own)
