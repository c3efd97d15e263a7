"""Quantities of single responses that a run records. NumPy alone: no model, no collectives."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


def repetition_rate(token_ids: npt.NDArray[np.integer[Any]], n: int = 4) -> float:
    """How much a response repeats itself: the share of its n-grams that have occurred before in it.

    A response of T tokens has T - n + 1 overlapping n-grams; those equal to an earlier one count, so that the rate is
    1 - distinct / all. 0 if no n-gram comes twice; a single token T times gives 1 - 1 / (T - n + 1). A response of
    fewer than n tokens has no n-gram and gives 0. Exact (n-grams are compared, not hashes of them); the time is that
    of log2(n) sorts of T numbers.

    Args:
        token_ids: [T], the response's tokens; ids from 0 to 2**31 - 1.
        n: tokens of an n-gram, at least 1.

    Raises:
        ValueError: `token_ids` has another shape, or `n` is below 1.
    """
    if token_ids.ndim != 1 or n < 1:
        raise ValueError(f"token_ids must be [T] and n at least 1, not {token_ids.shape} and {n}")
    total = len(token_ids) - n + 1
    if total < 1:
        return 0.0
    ranks = _ranks(token_ids.astype(np.int64))
    width = 1  # ranks[i] says which n-gram of this width begins at i
    while width < n:
        step = min(width, n - width)
        # Two overlapping shorter ones make a longer one; their ranks fit in one integer side by side.
        ranks = _ranks((ranks[:-step] << 32) | ranks[step:])
        width += step
    return 1.0 - (int(ranks.max()) + 1) / total


def _ranks(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The number of each value among the distinct ones, from 0, [T]."""
    ranks: npt.NDArray[np.int64] = np.unique(values, return_inverse=True)[1].astype(np.int64)
    return ranks
