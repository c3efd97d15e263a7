"""A rank's notes of itself, from joining the others to leaving them; an error if it has waited for them in vain."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from torch._C._distributed_c10d import TCPStore

from aspo_megatron.launch.hang_verdict import Verdict, find_late, ranks_text, silent_rank
from aspo_megatron.launch.rank_notes import SharedBoard, StoreBoard
from aspo_megatron.launch.rank_status import (
    BEAT_SECONDS,
    Board,
    Note,
    RankStatus,
    WaitedInVainError,
    connection_lost,
    timed_out,
)

_NETWORK_BEAT_SECONDS = 5.0
_BEATS_IN_TIMEOUT = 20  # at least
_PATIENCE_SECONDS = 3.0  # within which a rank that lives notes something more
_CONNECT_SECONDS = 5.0


@contextmanager
def watched(world_size: int, minutes: float) -> Iterator[RankStatus]:
    """Notes of this rank, until the block ends.

    Args:
        world_size: number of ranks.
        minutes: how long a collective may wait.

    Raises:
        WaitedInVainError: in place of the error of a collective that has timed out, here or, before, in another rank.
    """
    if world_size == 1:
        yield RankStatus()
        return
    rank, shared = int(os.environ["RANK"]), SharedBoard.given(os.environ, world_size)
    beat = BEAT_SECONDS if shared else min(_NETWORK_BEAT_SECONDS, 60 * minutes / _BEATS_IN_TIMEOUT)
    leader = _Leader()
    open_board: Callable[[], Board] = (lambda: shared) if shared else (lambda: _store_board(minutes, leader))
    rank_status = RankStatus(rank, open_board, beat)
    rank_status.phase("meeting the other ranks")
    rank_status.start()
    try:
        yield rank_status
    except RuntimeError as error:
        in_vain = timed_out(error)
        if shared and in_vain:  # the launcher says who is late; it sees more, and this rank's end must not wait
            raise WaitedInVainError("") from error
        if shared or not (in_vain or connection_lost(str(error))):  # gloo parts with its peers when its time is over
            raise
        text = _late(rank, world_size, minutes, max(_PATIENCE_SECONDS, 4 * beat), leader)
        if text is None and not in_vain:
            raise
        nobody = f"error: other ranks were waited for in vain ({minutes:g} minutes, platform.timeout_minutes)"
        raise WaitedInVainError(text or nobody) from error
    finally:
        if not shared:
            rank_status.end()


class _Leader:
    """The last note that was seen of rank 0: where it holds the store, there is no other when it is stopped."""

    def __init__(self) -> None:
        self.note: bytes | None = None


class _RememberingBoard(StoreBoard):
    def __init__(self, store: TCPStore, attempt: str, leader: _Leader) -> None:
        super().__init__(store, attempt)
        self._leader = leader

    def write(self, rank: int, note: bytes) -> None:
        super().write(rank, note)
        self._leader.note = self.read(0)


def _store(seconds: float) -> TCPStore:
    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        timeout=timedelta(seconds=seconds),
        wait_for_workers=False,
    )


def _attempt() -> str:
    return os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")


def _store_board(minutes: float, leader: _Leader) -> StoreBoard:
    return _RememberingBoard(_store(60 * minutes), _attempt(), leader)


def _late(rank: int, size: int, minutes: float, patience: float, leader: _Leader) -> str | None:
    """What to say of the ranks that did not arrive; None if none is known.

    In a thread of its own: a store whose process is stopped answers nobody, and nothing ends the wait for it.
    """
    found: list[Verdict] = []

    def look() -> None:
        with contextlib.suppress(RuntimeError, OSError):  # rank 0 has ended, which is said below
            found.append(find_late(StoreBoard(_store(_CONNECT_SECONDS), _attempt()), size, [rank], minutes, patience))

    looking = threading.Thread(target=look, name="verdict", daemon=True)
    looking.start()
    looking.join(patience + _CONNECT_SECONDS)
    if looking.is_alive():
        if leader.note is None:
            silent = f"rank 0 of {size} did not arrive: it holds the notes of all ranks, and does not answer"
        else:
            silent = silent_rank(0, size, Note.parse(leader.note))
        return f"{silent}\nerror: rank 0 of {size} did not arrive, and rank {rank} ends"
    time.sleep(patience)  # the others look too, and would take this rank's end for the reason of theirs
    if not found or not found[0].late:
        return None
    verdict = found[0]
    return f"{verdict.text}\nerror: {ranks_text(verdict.late)} of {size} did not arrive, and rank {rank} ends"
