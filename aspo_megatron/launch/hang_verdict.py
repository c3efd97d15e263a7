"""Which ranks a collective that has timed out waited for, and where each rank was."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass

from aspo_megatron.launch.rank_status import Board, Note

_MOST_LINES = 16


@dataclass(frozen=True)
class _Rank:
    """A rank when the time was over. `answers`: it has noted something since."""

    number: int
    note: Note | None
    answers: bool
    stopped: bool


@dataclass(frozen=True)
class Verdict:
    """The ranks that did not arrive, and the lines that say so; none where the notes do not tell."""

    late: list[int]
    text: str


def find_late(
    board: Board,
    size: int,
    failed: Collection[int],
    minutes: float | None,
    patience: float,
    gone: Callable[[], Collection[int]] = tuple,
) -> Verdict:
    """Who was waited for.

    Args:
        board: the notes of all ranks.
        size: number of ranks.
        failed: ranks that are known to have waited in vain, at least one.
        minutes: that a collective may wait, if known.
        patience: seconds within which a rank that lives has noted something more.
        gone: the ranks whose processes have ended by now, as those do whose peer has given up.
    """
    ranks = _look(board, size, failed, patience, gone)
    waiting = [rank for rank in ranks if rank.number in failed or (rank.answers and rank.note and rank.note.waits)]
    turns = [rank.note.turn for rank in waiting if rank.note]
    most = max(turns, default=0)
    late = [r for r in ranks if r not in waiting and (not r.answers or r.note is None or r.note.turn <= most)]
    reference = next((r.note for r in waiting if r.number in failed and r.note), None)
    if not late:  # all wait: some for something else
        late = _behind(waiting, most) or _elsewhere(waiting)
    if not late or reference is None:
        return Verdict([], "")
    at = max((r.note for r in waiting if r.note and r not in late), key=lambda note: note.turn, default=reference)
    lines = [_line(rank, size, at) for rank in late[:_MOST_LINES]]
    lines += [f"and {len(late) - _MOST_LINES} more"] * (len(late) > _MOST_LINES)
    others = [rank for rank in waiting if rank not in late]
    limit = "" if minutes is None else f" {_span(60 * minutes)} (platform.timeout_minutes={minutes:g})"
    for (phase, place), numbers in _by_place(others).items():
        lines.append(f"{ranks_text(numbers)} waited{limit} in {phase}, at {place}")
    return Verdict([rank.number for rank in late], "\n".join(lines))


def silent_rank(number: int, size: int, note: Note) -> str:
    """The line of a rank of which nothing can be asked; `note` is the last that was seen of it."""
    return _line(_Rank(number, note, answers=False, stopped=note.stopped), size, None)


def _look(
    board: Board, size: int, failed: Collection[int], patience: float, gone: Callable[[], Collection[int]]
) -> list[_Rank]:
    """Read all notes, then wait for each rank's next."""
    notes = [Note.read(board, number) for number in range(size)]
    stopped = [note is not None and number not in failed and note.stopped for number, note in enumerate(notes)]
    silent = {number for number in range(size) if number not in failed and not stopped[number]}
    deadline = time.monotonic() + patience
    while silent and time.monotonic() < deadline:
        time.sleep(0.05)
        silent -= set(gone())
        for number in sorted(silent):
            note, before = Note.read(board, number), notes[number]
            if note is not None and (before is None or note.beat > before.beat):
                silent.discard(number)
    return [
        _Rank(number, notes[number], number not in silent and not stopped[number], stopped[number])
        for number in range(size)
    ]


def _behind(waiting: list[_Rank], most: int) -> list[_Rank]:
    return [rank for rank in waiting if rank.note and rank.note.turn < most]


def _elsewhere(waiting: list[_Rank]) -> list[_Rank]:
    """Those that are not where most are; of equal numbers, not where the one is that has waited for longest."""
    by_place = defaultdict(list)
    for rank in waiting:
        if rank.note:
            by_place[rank.note.place].append(rank)

    def weight(ranks: list[_Rank]) -> tuple[int, float]:
        return len(ranks), -min(rank.note.place_since for rank in ranks if rank.note)

    groups = sorted(by_place.values(), key=weight)
    return sorted((rank for group in groups[:-1] for rank in group), key=lambda rank: rank.number)


def _line(rank: _Rank, size: int, at: Note | None) -> str:
    head = f"rank {rank.number} of {size} did not arrive{f' at {at.phase}' if at else ''}; it"
    note = rank.note
    if note is None:
        return f"{head} has not met the other ranks: it is in its start-up, or was never started"
    ago = _span(time.time() - note.since)
    if rank.stopped:
        return f"{head} is stopped (SIGSTOP), last seen in {note.phase}, {ago} ago, at {note.place}"
    if not rank.answers:
        return f"{head} does not answer, and was last seen in {note.phase}, {ago} ago, at {note.place}"
    does = "waits for something else" if note.waits else "runs"
    return f"{head} was last seen in {note.phase}, which it began {ago} ago; it {does} at {note.place}"


def _by_place(ranks: list[_Rank]) -> dict[tuple[str, str], list[int]]:
    found: dict[tuple[str, str], list[int]] = defaultdict(list)
    for rank in ranks:
        if rank.note:
            found[rank.note.phase, rank.note.place].append(rank.number)
    return found


def ranks_text(numbers: list[int]) -> str:
    """E.g. rank 3, ranks 0, 2 and 4."""
    shown = [str(number) for number in numbers[:_MOST_LINES]]
    shown += [f"{len(numbers) - _MOST_LINES} more"] * (len(numbers) > _MOST_LINES)
    return f"rank {shown[0]}" if len(shown) == 1 else f"ranks {', '.join(shown[:-1])} and {shown[-1]}"


def _span(seconds: float) -> str:
    """E.g. 3 seconds, 31 minutes, 2.5 hours."""
    if seconds < 120:
        return f"{seconds:.0f} seconds"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
