"""Consoles of rich that a stream which takes nothing more does not stop."""

from __future__ import annotations

import copy
from typing import IO, TextIO, cast

from rich.console import Console

from aspo_megatron.streams import shown


def shown_console(console: Console | None) -> Console:
    """A console like the given one (by default, one of stdout), whose file never fails."""
    unfailing = copy.copy(console) if console else Console(soft_wrap=True)
    unfailing.file = cast(IO[str], shown(cast(TextIO, unfailing.file)))
    return unfailing
