"""How a token's log-prob goes with its advantage: what drives the entropy down (arXiv 2505.22617v1, eq. 10)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from aspo_megatron.losses.base import UpdateTokens


def count_of(share: float, tokens: int) -> int:
    """How many of some tokens a share of them is: at least one, unless it is a share of nothing."""
    return max(1, int(share * tokens)) if share else 0


def covariances(tokens: UpdateTokens) -> npt.NDArray[np.float64]:
    """(log pi - its mean) * (A - its mean) at each token, [tokens]; means over all tokens of the update."""
    if not len(tokens.log_probs):
        return np.zeros(0)
    return np.asarray(
        (tokens.log_probs - tokens.log_probs.mean()) * (tokens.advantages - tokens.advantages.mean()), dtype=np.float64
    )
