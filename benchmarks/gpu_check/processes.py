"""A section's process: started in a group of its own, and ended with all that came of it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

_PR_SET_CHILD_SUBREAPER = 36
_SECONDS_TO_DIE = 10.0


class StuckError(Exception):
    """A process that no signal reaches, as in the driver."""


@contextlib.contextmanager
def adopting() -> Iterator[None]:
    """Children whose own parent ends become children of this process, where they can be found."""
    _prctl(1)
    try:
        yield
    finally:
        _prctl(0)


def _prctl(on: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, on, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER) failed")


@contextlib.contextmanager
def process_of(command: Sequence[str], env: dict[str, str], output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A running command in a session of its own; at the end nothing lives on that it started.

    Raises:
        StuckError: something does.
    """
    before = {child.pid for child in psutil.Process().children()}
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield process
    finally:
        _end(process, before)


def _end(process: subprocess.Popen[bytes], before: set[int]) -> None:
    """Kill its group, and what left the group; wait until they are gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(_SECONDS_TO_DIE)
    except subprocess.TimeoutExpired as error:
        raise StuckError(f"process {process.pid} does not end") from error
    me = psutil.Process()
    while left := [child for child in me.children() if child.pid not in before]:
        found = [*left, *(grandchild for child in left for grandchild in _children(child))]
        for one in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        _, alive = psutil.wait_procs(left, timeout=_SECONDS_TO_DIE)
        if alive:
            raise StuckError(f"processes {[one.pid for one in alive]} do not end")


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return list(process.children(recursive=True))
    except psutil.NoSuchProcess:
        return []


def how_it_ended(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
