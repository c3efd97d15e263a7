"""A process that has the library of faults from its start, and runs functions: they may fork ranks that are to fail."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from multiprocessing.connection import Client, Listener
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from forked import Server, _serve

from benchmarks.soak.injection import environment


class Preloaded(Server):
    """With the library."""

    def __enter__(self) -> Self:
        key = secrets.token_hex(16)
        self._folder = tempfile.TemporaryDirectory()
        with Listener(f"{self._folder.name}/socket", authkey=key.encode()) as listener:
            self._started = subprocess.Popen(
                [sys.executable, "-m", "faults.preloaded", str(listener.address)],
                env={**os.environ, **environment(), "PYTHONPATH": os.pathsep.join(sys.path)},
                stdin=subprocess.PIPE,
                text=True,
            )
            assert self._started.stdin
            self._started.stdin.write(f"{key}\n")
            self._started.stdin.close()
            self._pipe = listener.accept()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pipe.close()
        self._started.wait()
        self._folder.cleanup()


if __name__ == "__main__":
    connection: Any = Client(str(Path(sys.argv[1])), authkey=sys.stdin.readline().strip().encode())
    _serve(connection)
