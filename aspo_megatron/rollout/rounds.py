"""Waiting for something outside of the ranks, in rounds that are shorter than the time-out of a collective."""

from __future__ import annotations

from collections.abc import Callable

_ROUND_SECONDS = 20.0


def in_rounds(wait: Callable[[float], bool], seconds: float | None = None) -> bool:
    """Wait in rounds, so that no collective of the ranks times out; whether what is waited for has come.

    Args:
        wait: a collective that waits for so many seconds at most, and says the same on all ranks.
        seconds: the most to wait, in whole rounds, one at least; None: until it comes.
    """
    if seconds is None:
        while not wait(_ROUND_SECONDS):
            pass
        return True
    return any(wait(min(seconds, _ROUND_SECONDS)) for _ in range(max(1, round(seconds / _ROUND_SECONDS))))
