"""Starts the ranks of a run on this machine, and ends them all together.

The ranks find each other as under torchrun (RANK, WORLD_SIZE, MASTER_ADDR and so on). Each is started as
`python -m aspo_megatron.rank MODULE ARGUMENTS`, which ties it to the life of its parent before it runs MODULE.
Rank 0 writes to the terminal; every rank's output is in LOG_DIR/rank<N>.log (of rank 0 only stderr). Linux only.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from aspo_megatron.errors import UserError
from aspo_megatron.rank import PARENT_VARIABLE, REPORT_VARIABLE, USER_ERROR_CODE, rank_settings

_POLL_SECONDS = 0.02
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_SETTLE_SECONDS = 0.3  # how long the others may still report after a rank has failed, to learn which was first
_TAIL_LINES = 20


@dataclass(frozen=True)
class _Failure:
    """Why a rank ended. `when`: seconds on the monotonic clock; `reported`: the rank itself said so."""

    rank: int
    when: float
    code: int
    text: str
    reported: bool


@dataclass
class _Rank:
    number: int
    process: subprocess.Popen[bytes]
    log: Path
    report: Path
    tee: threading.Thread | None
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

    def failure(self) -> _Failure | None:
        if self.report.exists():
            said = json.loads(self.report.read_text(encoding="utf-8"))
            return _Failure(self.number, said["time"], said["code"], said["text"], reported=True)
        code = self.process.returncode
        if not code:
            return None
        # A rank that vanishes makes the others fail within milliseconds, often before it is found dead. That it was
        # alive at the last look is the time that keeps it in front of them.
        return _Failure(self.number, self.seen_alive, code, "", reported=False)


@contextlib.contextmanager
def _signals_noted(*more: signal.Signals) -> Iterator[list[int]]:
    """Collects the signals that ask the launcher to stop, instead of dying of them."""
    received: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *more)}
    # Ignored signals stay ignored: nohup and the background jobs of a script ask for that.
    before = {number: handler for number, handler in before.items() if handler not in (signal.SIG_IGN, None)}
    for number in before:
        signal.signal(number, lambda number, frame: received.append(number))
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def launch(
    module: str,
    argv: Sequence[str],
    processes: int,
    threads_per_rank: int,
    *,
    log_dir: Path,
    grace_seconds: float = 3.0,
    stops_by_itself: bool = False,
) -> int:
    """Run `python -m module *argv` in `processes` ranks and wait for them.

    The first rank to fail, a signal to this process, or its death ends all ranks: SIGTERM, then SIGKILL after
    `grace_seconds` (or at a second signal). To be called from the main thread.

    With `stops_by_itself`, SIGTERM and SIGUSR1 are passed on to the ranks as SIGUSR1, which they note and end well by
    when they can (see `stop.StopRequest`); a second SIGTERM does not wait for that.

    Returns:
        0 if all ranks ended well; 2 if the first failure was a user error, whose line is shown; 128 + the signal if
        one arrived (Ctrl-C: 130); else 1, with the first failing rank's traceback or last output shown.

    Raises:
        UserError: `log_dir` cannot be written.
    """
    ranks: list[_Rank] = []
    with _signals_noted(*[signal.SIGUSR1] * stops_by_itself) as signals, _reserved_port() as port:
        try:
            # A rank is born with SIGUSR1 blocked: one that comes before it can note it waits.
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1] * stops_by_itself)
            for number in range(processes):
                env = _rank_environment(number, processes, port, threads_per_rank, log_dir)
                ranks.append(_start(module, argv, number, env, log_dir))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1] * stops_by_itself)
            failures = _wait(ranks, signals, _STOP_SIGNALS if stops_by_itself else ())
        except OSError as error:
            raise UserError(f"{error.filename or log_dir}: cannot run the ranks: {error.strerror}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1] * stops_by_itself)
            _stop(ranks, grace_seconds, signals)
    if signals:
        sys.stderr.write(f"interrupted by {signal.Signals(signals[0]).name}\n")
        return 128 + signals[0]
    return _explain(failures, ranks, log_dir)


@contextlib.contextmanager
def _reserved_port() -> Iterator[int]:
    """A TCP port that nobody else is given while this lasts, and that rank 0 can listen on.

    The socket is bound but does not listen: the kernel then hands the port to no one who asks for any free port, but
    lets a listener with SO_REUSEADDR, such as torch's store, bind it too.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("", 0))
        yield holder.getsockname()[1]


def _rank_environment(number: int, processes: int, port: int, threads: int, log_dir: Path) -> dict[str, str]:
    return {
        **os.environ,
        **rank_settings(os.environ),
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


def _start(module: str, argv: Sequence[str], number: int, env: Mapping[str, str], log_dir: Path) -> _Rank:
    log_path, report = log_dir / f"rank{number}.log", Path(env[REPORT_VARIABLE])
    log_dir.mkdir(parents=True, exist_ok=True)
    report.unlink(missing_ok=True)
    # When a rank is killed, Python's resource tracker frees what the rank's workers shared, and warns of it after the
    # last line that matters.
    python = [sys.executable, "-W", "ignore:resource_tracker:UserWarning"]
    command = [*python, "-m", "aspo_megatron.rank", module, *argv]
    log = log_path.open("wb", buffering=0)
    # A session of its own: Ctrl-C reaches the launcher alone, which ends the ranks in order.
    process = subprocess.Popen(
        command,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=None if number == 0 else log,
        stderr=subprocess.PIPE if number == 0 else log,
        start_new_session=True,
    )
    if process.stderr is None:
        log.close()
        return _Rank(number, process, log_path, report, None)
    tee = threading.Thread(target=_copy, args=(process.stderr, log), daemon=True)
    tee.start()
    return _Rank(number, process, log_path, report, tee)


def _copy(source: IO[bytes], log: IO[bytes]) -> None:
    """Pass stderr on to the terminal and the log. It must go on reading whatever happens, or the rank would block."""
    with source, log:
        while chunk := os.read(source.fileno(), 65536):
            for write in (log.write, lambda data: os.write(2, data)):
                with contextlib.suppress(OSError):
                    write(chunk)


def _wait(ranks: Sequence[_Rank], signals: list[int], gentle: Sequence[signal.Signals]) -> list[_Failure]:
    """Wait until all ranks have ended, one has failed or a signal came; the failures known shortly after.

    The first signal, if it is one of `gentle`, is passed on and forgotten.
    """
    deadline = float("inf")
    asked = False
    while time.monotonic() < deadline:
        if signals and signals[0] in gentle and not asked:
            asked = True
            signals.pop(0)
            for rank in ranks:
                rank.process.send_signal(signal.SIGUSR1)  # to the rank alone, not to what it has started
        while asked and signal.SIGUSR1 in signals:
            signals.remove(signal.SIGUSR1)
        if signals:
            break
        codes = [rank.poll() for rank in ranks]
        if all(code is not None for code in codes):
            break
        if deadline == float("inf") and any(code for code in codes):
            deadline = time.monotonic() + _SETTLE_SECONDS
        time.sleep(_POLL_SECONDS)
    return [failure for rank in ranks if (failure := rank.failure())]


def _stop(ranks: Sequence[_Rank], grace_seconds: float, signals: list[int]) -> None:
    """End all ranks and what they have started, and wait for them."""
    asked = len(signals)
    for rank in ranks:
        if rank.poll() is None:
            rank.signal(signal.SIGTERM)
    deadline = time.monotonic() + grace_seconds
    while any(rank.poll() is None for rank in ranks):
        if time.monotonic() > deadline or len(signals) > asked:
            break
        time.sleep(_POLL_SECONDS)
    for rank in ranks:
        rank.signal(signal.SIGKILL)
    for rank in ranks:
        rank.process.wait()
        if rank.tee is not None:
            rank.tee.join(timeout=1.0)
    if sys.stdout.isatty() and any(rank.process.returncode for rank in ranks):
        sys.stdout.write("\x1b[?25h\n")  # a live display that was killed has left its line open and the cursor hidden
        sys.stdout.flush()


def _explain(failures: Sequence[_Failure], ranks: Sequence[_Rank], log_dir: Path) -> int:
    """Show the first failure; put every rank's into its log. Returns the exit code."""
    for failure in failures:
        rank = ranks[failure.rank]
        if failure.reported:
            with contextlib.suppress(OSError), rank.log.open("a", encoding="utf-8") as log:
                log.write(f"{failure.text}\n")
            rank.report.unlink(missing_ok=True)
    if not failures:
        return 0
    first = min(failures, key=lambda failure: failure.when)
    tail = _tail(ranks[first.rank].log)
    if first.code == USER_ERROR_CODE:
        # A rank that ends with code 2 by itself has said why in its last line; rank 0 has said it to the terminal.
        if first.reported or first.rank > 0:
            sys.stderr.write(f"{first.text or ''.join(tail[-1:])}\n")
        return USER_ERROR_CODE
    how = "failed"
    if not first.reported:
        how = f"ended with exit code {first.code}" if first.code > 0 else f"was killed by {_signal_name(-first.code)}"
        how += "; its last output" if tail else ", without any output"
    body = first.text or "\n".join(tail)
    sys.stderr.write(f"rank {first.rank} of {len(ranks)} {how}:\n{body}\n")
    sys.stderr.write(f"error: rank {first.rank} failed and the run was ended; all output is in {log_dir}/rank*.log\n")
    return 1


def _signal_name(number: int) -> str:
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    return f"{name} (the machine may have run out of memory)" if number == signal.SIGKILL else name


def _tail(log: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line][-_TAIL_LINES:]
    return []
