"""A command beside the section, with a time limit; it ends with the section."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

REPOSITORY = Path(__file__).parents[2]
_LAST_CHARACTERS = 1500


class Command:
    """A running command, its output in a file. Use as a context manager: at the end it is killed with its group."""

    def __init__(self, command: Sequence[str], output: Path, env: dict[str, str] | None = None) -> None:
        """It runs in the repository's root."""
        self._command, self._output, self._env = list(command), output, env
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it."""
        with self._output.open("wb") as file:
            self._process = subprocess.Popen(
                self._command,
                cwd=REPOSITORY,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End what is left of it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """While it runs, or after."""
        if self._process is None:
            raise RuntimeError("it was not started")
        return self._process

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit code; None if it takes longer than `seconds`."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None

    def output(self) -> str:
        """All that it has written."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    def last_lines(self) -> str:
        """The end of that, for a note."""
        return self.output()[-_LAST_CHARACTERS:].strip()
