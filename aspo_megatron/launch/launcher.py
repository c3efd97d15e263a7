"""Starts the ranks of a run on this machine, and ends them all together.

The ranks find each other as under torchrun (RANK, WORLD_SIZE, MASTER_ADDR and so on). Each is started as
`python -m aspo_megatron.launch.rank PATH MODULE ARGUMENTS`, which ties it to its parent's life before it runs MODULE.
Rank 0 writes to the terminal; every rank's output is in LOG_DIR/rank<N>.log (of rank 0 only stderr). Linux only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from aspo_megatron.errors import UserError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.launch.addresses import reserved_port
from aspo_megatron.launch.hang_verdict import Verdict, find_late
from aspo_megatron.launch.outcome import Outcome, explain, told
from aspo_megatron.launch.rank_notes import SharedBoard
from aspo_megatron.launch.rank_process import Failure, RankProcess, rank_environment, start
from aspo_megatron.launch.rank_status import Note, connection_lost
from aspo_megatron.launch.stop import handled
from aspo_megatron.streams import PATIENCE_SECONDS, shown

_POLL_SECONDS = 0.02
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
_SETTLE_SECONDS = 0.3  # how long the others may still report after a rank has failed, to learn which was first
_ANSWER_SECONDS = 3.0  # within which a rank that lives notes that it does


@contextlib.contextmanager
def _signals_noted(*more: signal.Signals) -> Iterator[list[int]]:
    """Collects the signals that ask the launcher to stop, instead of dying of them.

    None in another thread than the main one, which alone may handle signals.
    """
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    with handled((signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *more), lambda number, frame: received.append(number)):
        yield received


def launch(
    module: str,
    argv: Sequence[str],
    processes: int,
    threads_per_rank: int,
    *,
    log_dir: Path,
    grace_seconds: float = 3.0,
    stops_by_itself: bool = False,
    timeout_minutes: float | None = None,
) -> int:
    """As `run_ranks`, in sight: what there is to say of their end is shown. Returns the exit code."""
    return told(
        run_ranks(
            module,
            argv,
            processes,
            threads_per_rank,
            log_dir=log_dir,
            grace_seconds=grace_seconds,
            stops_by_itself=stops_by_itself,
            timeout_minutes=timeout_minutes,
        )
    )


def run_ranks(
    module: str,
    argv: Sequence[str],
    processes: int,
    threads_per_rank: int,
    *,
    log_dir: Path,
    grace_seconds: float = 3.0,
    stops_by_itself: bool = False,
    timeout_minutes: float | None = None,
    progress: bool = True,
) -> Outcome:
    """Run `python -m module *argv` in `processes` ranks and wait for them.

    The first rank to fail, a signal to this process, or its death ends all ranks: SIGTERM, then SIGKILL after
    `grace_seconds` (or at a second signal). Signals are noted in the main thread alone; called from another, ranks end
    with that thread.

    With `stops_by_itself`, SIGTERM and SIGUSR1 are passed on to the ranks as SIGUSR1, which they note and end well by
    when they can (see `stop.StopRequest`); a second SIGTERM does not wait for that. `timeout_minutes`: how long their
    collectives may wait, to be named when one has. `progress`: what rank 0 prints to stdout is shown.

    Returns:
        the code 0 if all ranks ended well; 2 if the first failure was a user error, with its line; 128 + the signal if
        one arrived (Ctrl-C: 130); else 1, with the first failing rank's traceback or last output, or the ranks that the
        others have waited for in vain.

    Raises:
        UserError: `log_dir` cannot be written.
    """
    ranks: list[RankProcess] = []
    with (
        _signals_noted(*[signal.SIGUSR1] * stops_by_itself) as signals,
        reserved_port() as port,
        _board(processes) as (board, descriptor),
    ):
        try:
            # A rank is born with SIGUSR1 blocked: one that comes before it can note it waits.
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1] * stops_by_itself)
            for number in range(processes):
                env = rank_environment(number, processes, port, threads_per_rank, log_dir, descriptor)
                ranks.append(start(module, argv, number, env, log_dir, descriptor, progress=progress))
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1] * stops_by_itself)
            watch = _Watch(ranks, board, timeout_minutes)
            failures = watch.wait(signals, _STOP_SIGNALS if stops_by_itself else ())
        except OSError as error:
            raise UserError(f"{one_line(error.filename or log_dir)}: cannot run the ranks: {error.strerror}") from error
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGUSR1] * stops_by_itself)
            _stop(ranks, grace_seconds, signals)
    if watch.interrupted:  # a signal that comes later hastens the end, and is not the reason for it
        return Outcome(f"interrupted by {signal.Signals(watch.interrupted).name}", 128 + watch.interrupted)
    return explain(failures, watch.verdict, ranks, log_dir)


@contextlib.contextmanager
def _board(size: int) -> Iterator[tuple[SharedBoard, int]]:
    board, descriptor = SharedBoard.create(size)
    try:
        yield board, descriptor
    finally:
        os.close(descriptor)


class _Watch:
    """Looks after ranks that run. `verdict`: whom they have waited for in vain; `interrupted`: by this signal, or 0."""

    def __init__(self, ranks: Sequence[RankProcess], board: SharedBoard, timeout_minutes: float | None) -> None:
        self._ranks, self._board, self._timeout_minutes = ranks, board, timeout_minutes
        self.verdict = Verdict([], "")
        self.interrupted = 0

    def wait(self, signals: list[int], gentle: Sequence[signal.Signals]) -> list[Failure]:
        """Wait until all ranks have ended, one has failed or a signal came; the failures known shortly after.

        The first signal, if it is one of `gentle`, is passed on and forgotten.
        """
        deadline = float("inf")
        asked = False
        while time.monotonic() < deadline:
            if signals and signals[0] in gentle and not asked:
                asked = True
                signals.pop(0)
                for rank in self._ranks:
                    rank.process.send_signal(signal.SIGUSR1)  # to the rank alone, not to what it has started
            while asked and signal.SIGUSR1 in signals:
                signals.remove(signal.SIGUSR1)
            if signals:
                self.interrupted = signals[0]
                break
            codes = [rank.poll() for rank in self._ranks]
            if any(codes):  # perhaps all have ended: a busy machine lets this look late
                deadline = min(deadline, time.monotonic() + _SETTLE_SECONDS)
                if not self.verdict.late:
                    self._judge()
            if all(code is not None for code in codes):
                break
            time.sleep(_POLL_SECONDS)
        return self._failures()

    def _judge(self) -> None:
        """If a rank has waited in vain, see for whom, while the others are as they were.

        Its peers lose their connection to it, and may be the first to say something.
        """
        failures = sorted(self._failures(), key=lambda failure: failure.when)
        failed = {failure.rank for failure in failures if failure.waited}
        failed |= {n for n in range(len(self._ranks)) if (note := Note.read(self._board, n)) and note.gave_up}
        first = failures[0]
        if failed and (first.waited or not first.text or connection_lost(first.text)):
            minutes = self._timeout_minutes
            self.verdict = find_late(self._board, len(self._ranks), failed, minutes, _ANSWER_SECONDS, self._gone)

    def _gone(self) -> list[int]:
        return [rank.number for rank in self._ranks if rank.poll() is not None]

    def _failures(self) -> list[Failure]:
        return [failure for rank in self._ranks if (failure := rank.failure())]


def _stop(ranks: Sequence[RankProcess], grace_seconds: float, signals: list[int]) -> None:
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
        rank.kill_all()
    for rank in ranks:
        rank.process.wait()
        for tee in rank.tees:
            tee.join(timeout=PATIENCE_SECONDS + 1.0)  # the log has all of it then
    if shown(sys.stdout).isatty() and any(rank.process.returncode for rank in ranks):
        shown(sys.stdout).draw("\x1b[?25h\n")  # a live display that was killed has left its line open, no cursor
