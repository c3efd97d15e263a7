"""How many rows a rank sets aside for its experts."""

from __future__ import annotations

ROOM = 1.25
"""Rows set aside at first, as a multiple of those that experts take if they are used evenly."""
_MULTIPLE = 8


def even_rows(tokens: int, top_k: int, local: int, experts: int) -> float:
    """Rows that `local` of all `experts` take if they are used evenly, of `tokens` with k choices each."""
    return tokens * top_k * local / experts


def rows_set_aside(tokens: int, top_k: int, local: int, experts: int, factor: float = ROOM) -> int:
    """As many as are used evenly, times `factor`, but no more than there can be."""
    wanted = int(factor * even_rows(tokens, top_k, local, experts))
    return min(-(-wanted // _MULTIPLE) * _MULTIPLE, tokens * min(top_k, local))
