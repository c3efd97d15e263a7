"""What a check says: a mark, what was looked at, what was found, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Mark = Literal["ok", "warn", "wrong", "unknown", "unneeded"]
"""`wrong`: the run could not work. `warn`: it is slower, or has an option less. `unneeded`: only to be known."""


@dataclass(frozen=True)
class Line:
    """One thing that was looked at. `todo`: what to do about it, a command where there is one."""

    mark: Mark
    what: str
    found: str
    todo: str = ""


@dataclass(frozen=True)
class LineGroup:
    """Lines that belong together."""

    name: str
    lines: tuple[Line, ...]


def ok(what: str, found: str) -> Line:
    """Nothing to do."""
    return Line("ok", what, found)


def warn(what: str, found: str, todo: str) -> Line:
    """It works, but not as well as it could."""
    return Line("warn", what, found, todo)


def wrong(what: str, found: str, todo: str) -> Line:
    """The run could not work."""
    return Line("wrong", what, found, todo)


def unknown(what: str, found: str, todo: str = "") -> Line:
    """It could not be found out."""
    return Line("unknown", what, found, todo)


def unneeded(what: str, found: str) -> Line:
    """It is not there, or does not matter, for this run."""
    return Line("unneeded", what, found)


def count(groups: Sequence[LineGroup], mark: Mark) -> int:
    """How many lines have a mark."""
    return sum(line.mark == mark for group in groups for line in group.lines)


def gib(size: float) -> str:
    """Bytes for people."""
    return f"{size / 2**30:.1f} GiB" if size >= 2**30 else f"{size / 2**20:.0f} MiB"
