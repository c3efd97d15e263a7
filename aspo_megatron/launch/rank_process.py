"""The process of a rank, as its launcher sees it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from aspo_megatron.launch.rank import PARENT_VARIABLE, REPORT_VARIABLE, rank_settings
from aspo_megatron.launch.rank_notes import SharedBoard
from aspo_megatron.streams import ShownStream, shown, shown_stderr

_TAIL_LINES = 20
_TAIL_BYTES = 1 << 18
_WATCHDOG = b"Watchdog caught collective operation timeout"  # NCCL's, in C++, which then aborts the process


@dataclass(frozen=True)
class Failure:
    """Why a rank ended. `when`: seconds on the monotonic clock; `reported`: the rank itself said so.

    `waited`: it has waited for other ranks in vain.
    """

    rank: int
    when: float
    code: int
    text: str
    reported: bool
    waited: bool = False


@dataclass
class RankProcess:
    """A rank that was started. `tees`: what copies rank 0's stderr to the terminal and the log, and its stdout."""

    number: int
    process: subprocess.Popen[bytes]
    log: Path
    report: Path
    tees: tuple[threading.Thread, ...] = ()
    seen_alive: float = field(default_factory=time.monotonic)

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while the rank runs."""
        now = time.monotonic()
        code = self.process.poll()
        if code is None:
            self.seen_alive = now
        return code

    def signal(self, number: signal.Signals) -> None:
        """Signal the rank and the processes it has started (they share its process group)."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def kill_all(self) -> None:
        """Kill the rank and the processes it has started, those with a process group of their own too."""
        self.signal(signal.SIGKILL)
        for pid in psutil.pids():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if os.getsid(pid) == self.process.pid:
                    os.kill(pid, signal.SIGKILL)

    def tail(self) -> list[str]:
        """The last lines of its log that are not empty."""
        with contextlib.suppress(OSError):
            with self.log.open("rb") as file:  # of a log that may be larger than memory
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                text = file.read(_TAIL_BYTES).decode(errors="replace")
            return [line for line in text.split("\n") if line.strip()][-_TAIL_LINES:]
        return []

    def failure(self) -> Failure | None:
        """Why it has ended; None if it has not, or ended well."""
        if self.report.exists():
            said = json.loads(self.report.read_text(encoding="utf-8"))
            return Failure(self.number, said["time"], said["code"], said["text"], reported=True, waited=said["waited"])
        code = self.process.returncode
        if not code:
            return None
        # A rank that vanishes makes the others fail within milliseconds, often before it is found dead. That it was
        # alive at the last look is the time that keeps it in front of them.
        return Failure(self.number, self.seen_alive, code, "", reported=False, waited=self._ended_by_watchdog(code))

    def _ended_by_watchdog(self, code: int) -> bool:
        with contextlib.suppress(OSError):
            if code == -signal.SIGABRT:
                with self.log.open("rb") as file:
                    return any(_WATCHDOG in line for line in file)
        return False


def rank_environment(number: int, processes: int, port: int, threads: int, log_dir: Path, board: int) -> dict[str, str]:
    """As torchrun's, and what ties a rank to its launcher. `board`: descriptor of the ranks' notes."""
    return {
        **os.environ,
        **rank_settings(os.environ),
        **SharedBoard.environment(board),
        "RANK": str(number),
        "LOCAL_RANK": str(number),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": str(threads),
        REPORT_VARIABLE: str((log_dir / f"rank{number}.failure.json").absolute()),
        PARENT_VARIABLE: str(os.getpid()),
    }


def start(
    module: str,
    argv: Sequence[str],
    number: int,
    env: Mapping[str, str],
    log_dir: Path,
    board: int,
    *,
    progress: bool = True,
) -> RankProcess:
    """Start a rank. `progress`: what rank 0 prints to stdout is shown, where stdout is at this time.

    Raises:
        OSError: its log cannot be written, or there is no room for a process.
    """
    log_path, report = log_dir / f"rank{number}.log", Path(env[REPORT_VARIABLE])
    log_dir.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    # When a rank is killed, Python's resource tracker frees what the rank's workers shared, and warns of it after the
    # last line that matters.
    python = [sys.executable, "-W", "ignore:resource_tracker:UserWarning"]
    # A script's own folder, or what a notebook has put there: what this process can import, its ranks can.
    command = [*python, "-m", "aspo_megatron.launch.rank", json.dumps([*map(str, sys.path)]), module, *argv]
    log = log_path.open("wb", buffering=0)
    # A session of its own: Ctrl-C reaches the launcher alone, which ends the ranks in order.
    process = subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=_stdout_of_rank_0(progress) if number == 0 else log,
        stderr=subprocess.PIPE if number == 0 else log,
        start_new_session=True,
        pass_fds=(board,),
    )
    if process.stderr is None:
        log.close()
        return RankProcess(number, process, log_path, report)
    copies: list[tuple[IO[bytes], IO[bytes] | None, ShownStream]] = [(process.stderr, log, shown_stderr())]
    if process.stdout is not None:
        copies.append((process.stdout, None, shown(sys.stdout)))
    tees = tuple(threading.Thread(target=_copy, args=each, daemon=True) for each in copies)
    for tee in tees:
        tee.start()
    return RankProcess(number, process, log_path, report, tees)


def _stdout_of_rank_0(progress: bool) -> int | None:
    """Its own way to where this process's stdout is; a pipe, to be copied, if that is no descriptor 1 any more."""
    if not progress:
        return subprocess.DEVNULL
    try:
        return None if shown(sys.stdout).fileno() == 1 else subprocess.PIPE
    except OSError:  # a notebook's, or one in memory
        return subprocess.PIPE


def _copy(source: IO[bytes], log: IO[bytes] | None, terminal: ShownStream) -> None:
    """Pass output on to the log and the terminal. It must go on reading whatever happens, or the rank would block."""
    with source, log or contextlib.nullcontext():
        while chunk := os.read(source.fileno(), 65536):
            if log is not None:
                with contextlib.suppress(OSError):
                    log.write(chunk)
            terminal.show(chunk)
