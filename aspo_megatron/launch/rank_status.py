"""Where each rank stands, noted where others can read it, so that a hang names the rank that did not arrive.

A thread of each rank notes step, phase and place whenever the phase changes, and now and then: no collective, no file,
nothing that the rank itself waits for. A rank that is stopped, or lost in code that never lets go of the interpreter,
is told by its notes ceasing.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import re
import socket
import sys
import sysconfig
import threading
import time
import tokenize
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Protocol

import psutil

from aspo_megatron.foreign_text import one_line

BEAT_SECONDS = 0.5
"""How often a rank notes that it lives, among the ranks of one machine; over the network less often."""

_WAITING_CALLS = re.compile(r"\.(wait|wait_tensor|synchronize|item|tolist|cpu|numpy)\(")
_TIMED_OUT = re.compile(r"timed? ?out", re.IGNORECASE)
_LOST = re.compile(r"connection (was likely )?(closed|reset|refused)|broken pipe|remote process exited", re.IGNORECASE)
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("stdlib", "platstdlib", "purelib", "platlib"))


class WaitedInVainError(Exception):
    """A collective has timed out. The message says which ranks did not arrive, unless the launcher is to say so."""


class Board(Protocol):
    """Where the notes of all ranks are."""

    def write(self, rank: int, note: bytes) -> None:
        """Replace the note of `rank`."""

    def read(self, rank: int) -> bytes | None:
        """The latest whole note of `rank`, None if there is none."""


@dataclass(frozen=True)
class Note:
    """Of a rank: what it does since when (seconds since 1970), and where its code stands since when.

    `turn` counts the phases, `beat` the notes. `waits`: in a call that waits for other ranks. `gave_up`: that call has
    timed out.
    """

    phase: str
    turn: int
    since: float
    place: str
    place_since: float
    waits: bool
    gave_up: bool
    beat: int
    pid: int
    host: str

    @classmethod
    def read(cls, board: Board, rank: int) -> Note | None:
        """The note of `rank` on the board; None if it has not come so far."""
        data = board.read(rank)
        return None if data is None else cls.parse(data)

    @classmethod
    def parse(cls, data: bytes) -> Note:
        """A note as it was written."""
        return cls(**json.loads(data))

    @property
    def stopped(self) -> bool:
        """Whether the process is stopped by a signal or a debugger; False if it is on another machine."""
        try:
            return self.host == socket.gethostname() and is_stopped(psutil.Process(self.pid))
        except psutil.Error:  # it has ended
            return False


class RankStatus:
    """What this rank notes of itself. Without a board it notes nothing, as there is nobody to read it."""

    def __init__(self, rank: int = 0, board: Callable[[], Board] | None = None, beat_seconds: float = 0.0) -> None:
        """`board` is called in the thread that writes; `start` starts it."""
        self._rank, self._open, self._beat_seconds = rank, board, beat_seconds
        now = time.time()
        self._note = Note("start", 0, now, "", now, False, False, 0, os.getpid(), socket.gethostname())
        self._changed, self._ended = threading.Event(), threading.Event()
        self._main = threading.main_thread()
        self._written = -1
        self._thread = threading.Thread(target=self._write, name="rank_status", daemon=True)

    def start(self) -> None:
        """Begin to write notes."""
        if self._open is not None:
            self._thread.start()

    def phase(self, text: str) -> None:
        """Note what is done from now on."""
        self._note = replace(self._note, phase=one_line(text)[:100], turn=self._note.turn + 1, since=time.time())
        self._changed.set()

    @property
    def written(self) -> bool:
        """Whether the others can read the latest phase."""
        return self._written == self._note.turn

    def end(self) -> None:
        """Write no more; the last note stays."""
        self._ended.set()
        self._changed.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=1.0)

    def _write(self) -> None:
        assert self._open is not None
        beat, place, place_since, waits = 0, "", 0.0, False
        # The board may be gone, as rank 0 has ended: then this rank ends too, or nobody asks.
        with contextlib.suppress(RuntimeError, OSError):
            board = self._open()
            while not self._ended.is_set():
                self._changed.clear()
                error = self._error_under_way()
                if not isinstance(error, RuntimeError):  # else what counts is where it was when that came
                    now, waits = place_of(sys._current_frames().get(self._main.ident or 0))
                    if now != place:
                        place, place_since = now, time.time()
                beat += 1
                note = replace(
                    self._note,
                    place=place,
                    place_since=place_since,
                    waits=waits,
                    gave_up=error is not None and timed_out(error),
                    beat=beat,
                )
                board.write(self._rank, json.dumps(asdict(note)).encode())
                self._written = note.turn
                self._changed.wait(self._beat_seconds)

    def _error_under_way(self) -> BaseException | None:
        """What the main thread has caught and tidies up after."""
        found: object = sys._current_exceptions().get(self._main.ident or 0)
        error = found[1] if isinstance(found, tuple) else found  # until Python 3.11 what sys.exc_info() gives
        if isinstance(error, WaitedInVainError):  # stands for the one that came of waiting
            error = error.__cause__
        return error if isinstance(error, BaseException) else None


def place_of(frame: FrameType | None) -> tuple[str, bool]:
    """Where a thread's code stands, as `file:line function` outside of libraries, and whether it waits for others."""
    if frame is None:
        return "", False
    waits = f"torch{os.sep}distributed" in frame.f_code.co_filename or _calls_to_wait(frame)
    at: FrameType | None = frame
    while at is not None and at.f_code.co_filename.startswith((*_LIBRARIES, "<")):
        at = at.f_back
    at = at or frame
    path = Path(at.f_code.co_filename)
    return one_line(f"{path.parent.name}/{path.name}:{at.f_lineno} {at.f_code.co_name}")[-200:], waits


def _calls_to_wait(frame: FrameType) -> bool:
    """Whether the source line of the innermost frame calls what waits for another rank or for a GPU."""
    return _line_waits(frame.f_code.co_filename, frame.f_lineno or 1)


@functools.lru_cache(maxsize=256)
def _line_waits(path: str, number: int) -> bool:
    """Whether a line of a source file has such a call. Python's `linecache` would keep every file that it has seen."""
    try:
        with tokenize.open(path) as file:
            return bool(_WAITING_CALLS.search(next(itertools.islice(file, max(number - 1, 0), None), "")))
    except (OSError, SyntaxError, UnicodeError):
        return False


def timed_out(error: BaseException) -> bool:
    """Whether an error says that other ranks were waited for in vain."""
    return isinstance(error, RuntimeError) and bool(_TIMED_OUT.search(str(error)))


def connection_lost(text: str) -> bool:
    """Whether an error's words say that another rank has parted with this one."""
    return bool(_LOST.search(text))


def is_stopped(process: psutil.Process) -> bool:
    """Whether a process of this machine is stopped, by a signal or a debugger.

    Raises:
        psutil.Error: it is not there, or not this user's.
    """
    return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
