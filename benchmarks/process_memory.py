"""Peak memory of a command with all its child processes, on Linux."""

from __future__ import annotations

import contextlib
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

import psutil

_INTERVAL_SECONDS = 0.5


class CommandFailedError(Exception):
    """A command that was measured ended with an error."""


def peak_of(command: Sequence[str], log: Path, env: dict[str, str] | None = None) -> int:
    """Run a command to its end, its output in `log`; the sum of the peak resident bytes of its processes.

    The sum is at least what they had at the same time: what they share is counted for each.

    Raises:
        CommandFailedError: its exit code is not 0.
    """
    peaks: dict[int, int] = {}
    ended = threading.Event()
    with log.open("w", encoding="utf-8") as output:
        process = psutil.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=env)

        def watch() -> None:
            while not ended.wait(_INTERVAL_SECONDS):
                with contextlib.suppress(psutil.NoSuchProcess):
                    for one in (process, *process.children(recursive=True)):
                        peaks[one.pid] = max(peaks.get(one.pid, 0), _peak_bytes(one.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            code = process.wait()
        finally:
            ended.set()
            watcher.join()
            if process.is_running():
                process.terminate()
    if code:
        raise CommandFailedError(f"{' '.join(command)}: exit code {code}\n{log.read_text(encoding='utf-8')[-3000:]}")
    return sum(peaks.values())


def _peak_bytes(pid: int) -> int:
    """Since the process began; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), 0)
