"""Faults of disks and processes at chosen system calls: the library of `injection.c`, built and controlled.

It must be there when a process starts (`environment`). A process that has it controls its own faults by `Faults`.
"""

from __future__ import annotations

import ctypes
import functools
import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psutil

SOURCE = Path(__file__).with_name("injection.c")

ERRORS = {
    "full": "No space left on device",
    "quota": "Disk quota exceeded",
    "broken": "Input/output error",
    "read-only": "Read-only file system",
    "stale": "Stale file handle",
    "short": "No space left on device",
}
"""Kinds of faults that a call meets, in the C library's words. `short`: half is written, then the disk is full."""

KILLS = ("kill", "kill-after", "torn")
"""Kinds that end the process by SIGKILL: before the call, after it, or in the middle of what it writes."""

KILL_PARENT = "kill-parent"
"""Ends the process that has started this one, before the call."""

FOR_GOOD = -1


class CompilerError(Exception):
    """The library cannot be built."""


@functools.cache
def library() -> Path:
    """The library, built once for each process that asks, in a temporary folder.

    Raises:
        CompilerError: there is no C compiler, or it failed; says so in one line.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise CompilerError("injecting faults wants a C compiler: install gcc")
    built = Path(tempfile.mkdtemp(prefix="aspo-faults-")) / "injection.so"
    command = [compiler, "-O1", "-Wall", "-shared", "-fPIC", "-o", str(built), str(SOURCE), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise CompilerError(f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1]}")
    return built


def environment(
    folder: Path | None = None, *, log: Path | None = None, full: Path | None = None, armed: str | None = None
) -> dict[str, str]:
    """Variables with which a process, and all that it starts, has the library.

    Args:
        folder: watched from the start.
        log: gets a line for each call that counts, see `read_log`.
        full: while this file exists, the disk under `folder` is full.
        armed: `RANK:N:KIND:TIMES`, a fault for the process of that rank (`launcher`: one without).
    """
    named = {"FOLDER": folder and folder.resolve(), "LOG": log, "FULL": full, "ARM": armed}
    return {"LD_PRELOAD": str(library())} | {
        f"ASPO_FAULTS_{name}": str(v) for name, v in named.items() if v is not None
    }


def started_for(folder: Path) -> list[psutil.Process]:
    """The processes that watch this folder from their start."""
    return [process for process in psutil.process_iter() if _watched_by(process) == str(folder.resolve())]


def _watched_by(process: psutil.Process) -> str | None:
    try:
        folder: str | None = process.environ().get("ASPO_FAULTS_FOLDER")
    except psutil.Error:
        return None
    return folder


class Faults:
    """The faults of this process, which must have been started with the library."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ["LD_PRELOAD"])
        self._library.aspo_faults_count.restype = ctypes.c_long
        self._library.aspo_faults_failed.restype = ctypes.c_long

    def watch(self, folder: Path) -> None:
        """Count the calls under `folder`, no faults yet."""
        self.disarm()
        self._library.aspo_faults_watch(os.fsencode(folder.resolve()))

    def name(self, rank: int) -> None:
        """What this process, which was forked, is called in the log."""
        self._library.aspo_faults_name(str(rank).encode())

    def log(self, path: Path | None) -> None:
        """Where each counted call is noted; None: nowhere."""
        self._library.aspo_faults_log(os.fsencode(path) if path else b"")

    def arm(self, number: int, kind: str, times: int = 1, room: Path | None = None) -> None:
        """Have `times` calls fail from the `number`-th on, counted from now; or all, until the file `room` exists."""
        which = self._library.aspo_faults_kind(kind.encode())
        assert which >= 0, kind
        path = os.fsencode(room.resolve()) if room else b""
        self._library.aspo_faults_arm(ctypes.c_long(number), which, ctypes.c_long(times), path)

    def disarm(self) -> None:
        """No faults; the count begins anew."""
        self.arm(0, "none", 0)

    @property
    def count(self) -> int:
        """Calls since `arm`."""
        return int(self._library.aspo_faults_count())

    @property
    def failed(self) -> int:
        """Calls since `arm` that met the fault."""
        return int(self._library.aspo_faults_failed())


@dataclass(frozen=True)
class Call:
    """A call that counted. `error`: the errno it was given, 0 if none."""

    process: int
    rank: str
    number: int
    name: str
    error: int
    path: Path


def read_log(path: Path) -> list[Call]:
    """The calls that were noted, of all processes."""
    calls = []
    for line in path.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        process, rank, number, name, error, where = line.split(" ", 5)
        calls.append(Call(int(process), rank, int(number), name, int(error), Path(where)))
    return calls
