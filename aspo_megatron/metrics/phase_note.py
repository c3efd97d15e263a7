"""What a run does now, noted in its folder for those who watch it from elsewhere."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from aspo_megatron.errors import UserError
from aspo_megatron.folders import LOGS
from aspo_megatron.foreign_text import one_line
from aspo_megatron.reading import own_file, read_text

_FILE = "phase"
_MOST_BYTES = 1000


class PhaseNote:
    """A file with the name of a phase, which is as old as the phase. What cannot be written is not: it is no result."""

    def __init__(self, run_folder: Path, *, leader: bool) -> None:
        """`leader`: only this rank writes it."""
        self._path = run_folder / LOGS / _FILE if leader else None

    def __call__(self, label: str) -> None:
        """Note that a phase begins."""
        if self._path is not None:
            with suppress(OSError):
                self._path.parent.mkdir(exist_ok=True)
                self._path.write_text(f"{label}\n", encoding="utf-8")


def read_phase(run_folder: Path) -> tuple[str, float] | None:
    """The phase, and when it began, in seconds since 1970 by the clock of the disk; None if none is noted."""
    try:
        path = own_file(run_folder / LOGS, _FILE)
        label = one_line(read_text(path, most_bytes=_MOST_BYTES).strip())
        return (label, os.stat(path).st_mtime) if label else None
    except (OSError, UserError):
        return None
