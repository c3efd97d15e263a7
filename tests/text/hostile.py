"""Texts that are more than text where they are shown as they stand."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Sequence

import pytest

KINDS = {
    "title": "\x1b]0;TITLE\x07",
    "title ended by ST": "\x1b]2;TITLE\x1b\\",
    "clipboard": "\x1b]52;c;ZXZpbA==\x07",
    "link": "\x1b]8;;http://evil.example\x07here\x1b]8;;\x07",
    "cleared screen": "\x1b[2J\x1b[H",
    "colour": "\x1b[31mEVIL",
    "a line above": "\x1b[A\x1b[Aerror: none",
    "other screen": "\x1b[?1049h",
    "answer as if typed": "\x1b[6n\x1b[c",
    "device string": "\x1bP+q544e\x1b\\",
    "reset": "\x1bc",
    "other letters": "\x1b(0lqqk\x0e",
    "C1 clear": "\x9b2J",
    "C1 title": "\x9d0;TITLE\x9c",
    "begins the line again": "wrong\rright",
    "rubbed out": "wrong\b\b\b\b\bright",
    "zero, bell, delete": "\0\x07\x7f",
    "form feed": "a\x0b\x0c\x1c\x1d\x1e\x85b",
    "direction": "\u202egnp.exe\u202c",
    "direction of a part": "\u2067fdp\u2069\u200f\u061c",
    "line separator": "a\u2028error: b\u2029c",
    "invisible": "pass\u200b\u00ad\ufeffword\U000e0041",
    "half a surrogate pair": "\ud83d",
    "markup": "[red]r[/red] [link=http://evil.example]l[/link] [bold",
    "emoji code": ":warning:",
}
"""By what it does."""

HOSTILE = "".join(text for kind, text in KINDS.items() if "zero" not in kind and "half" not in kind)
"""All at once, but for what no file can be named like."""

NAME = HOSTILE.replace("/", "")[:80]
"""For a file."""

_OWN = re.compile(r"\x1b\[[0-9;]*m|\x1b\[\?25[lh]|\x1b\[1?A|\x1b\[2K")
"""What the commands' own displays write: colours, a hidden cursor, a line that is drawn anew."""

_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\U000e0000-\U000e007f]"
)


def faults(shown: str, *, own: bool = True) -> list[str]:
    """What in a text a terminal takes for more; `own`: displays may use colours and carriage returns."""
    found = [text for text in ("\x1b[31mEVIL", "wrong\rright") if text in shown]
    plain = _OWN.sub("", shown).replace("\r", "") if own else shown
    return found + [repr(plain[max(0, each.start() - 20) : each.end() + 20]) for each in _CONTROLS.finditer(plain)]


def on_a_terminal(argv: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> tuple[int, str]:
    """`aspo` in this process, its stdout and stderr a terminal: exit code, and what came there."""
    import gc
    import tty

    from aspo_megatron.cli import entry

    reading, writing = os.openpty()
    tty.setraw(writing)
    got = bytearray()

    def read() -> None:
        try:
            while chunk := os.read(reading, 1 << 16):
                got.extend(chunk)
        except OSError:  # the other end is closed
            pass

    thread = threading.Thread(target=read)
    thread.start()
    try:
        with (
            os.fdopen(writing, "w", encoding="utf-8", errors="surrogateescape") as terminal,
            monkeypatch.context() as to,
        ):
            to.setattr(sys, "stdout", terminal)
            to.setattr(sys, "stderr", terminal)
            to.setattr(sys, "argv", ["aspo", *argv])
            to.setattr(gc, "freeze", lambda: None)  # this process does not end with the command
            with pytest.raises(SystemExit) as ended:
                entry.main()
    finally:
        thread.join()
        os.close(reading)
    return int(ended.value.code or 0), got.decode("utf-8", errors="surrogateescape")
