"""Consoles of rich that a stream which takes nothing more does not stop, and plain text for them."""

from __future__ import annotations

import copy
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import IO, TextIO, cast

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from aspo_megatron.foreign_text import one_line, printed, safe
from aspo_megatron.streams import ShownStream, shown


def shown_console(console: Console | None = None) -> Console:
    """A console like the given one (by default, one of stdout), whose file never fails."""
    if console is None:
        # A notebook sets variables by which rich takes all its processes for terminals, and prints by other ways.
        console = Console(soft_wrap=True, force_terminal=shown(sys.stdout).isatty(), force_jupyter=False)
    unfailing = copy.copy(console)
    if not isinstance(unfailing.file, _Canvas):
        unfailing.file = cast(IO[str], _Canvas(shown(cast(TextIO, unfailing.file))))
    return unfailing


def lines(*parts: object | tuple[object, str], style: str = "") -> Text:
    """Parts with a style or without, one after the other, as text that is shown as it stands, in lines."""
    return _assembled(safe, parts, style)


def words(*parts: object | tuple[object, str], style: str = "") -> Text:
    """Like `lines`, for a place in a line."""
    return _assembled(one_line, parts, style)


def print_text(console: Console, text: Text, *, wrap: bool = False) -> None:
    """Print what `lines` or `words` has made: nothing in it is markup; `wrap` at the console's width."""
    console.print(text, soft_wrap=not wrap, highlight=False)


@contextmanager
def drawn(bar: Progress) -> Iterator[None]:
    """Draw a bar meanwhile. In a terminal, what is printed stands above it, as text.

    The bar's own `redirect_stdout` is to be off: rich takes what is printed for colours, markup and links.
    """
    before, above = sys.stdout, _Above(bar.console)
    bar.start()
    try:
        if bar.console.is_terminal and not bar.console.stderr:
            sys.stdout = cast(TextIO, above)
        yield
    finally:
        sys.stdout = before
        above.end()
        bar.stop()


class _Canvas(io.TextIOBase):
    """A `ShownStream` for what is drawn: rich's colours, and a cursor that moves."""

    def __init__(self, stream: ShownStream) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._stream.draw(text)
        return len(text)


class _Above(ShownStream):
    """What is printed, line by line above a bar. A line that has no end yet is kept back."""

    def __init__(self, console: Console) -> None:
        super().__init__(cast(TextIO, console.file))
        self._console = console
        self._begun = ""

    def write(self, text: str) -> int:
        whole, newline, self._begun = f"{self._begun}{printed(text)}".rpartition("\n")
        if newline:
            print_text(self._console, Text(whole))
        return len(text)

    def end(self) -> None:
        if self._begun:
            self.write("\n")


def _assembled(plain: Callable[[object], str], parts: Iterable[object | tuple[object, str]], style: str) -> Text:
    text = Text(style=style)
    for part in parts:
        content, own = part if isinstance(part, tuple) else (part, "")
        text.append(plain(content), own or None)
    return text
