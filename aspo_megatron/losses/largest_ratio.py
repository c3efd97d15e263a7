"""The one bound on ratios of probabilities: none is above e^20, so that no loss, gradient or figure overflows.

In fp32 and bf16 exp overflows from 88.7 nats on, and one such token would be the end of a run. Twenty nats are verl's
bound, and NeMo-RL's for its KL. Below nothing is bounded: a ratio that vanishes does no harm, and where a loss divides
by it, `LARGEST_RATIO` bounds the result. A NaN stays one.

docs/loss.md says what each loss makes of a token beyond it.
"""

from __future__ import annotations

import math

from torch import Tensor

MOST_NATS = 20.0
LARGEST_RATIO = math.exp(MOST_NATS)


def bounded(log_ratio: Tensor) -> Tensor:
    """The log-ratio, at most `MOST_NATS`; beyond, no gradient flows through it."""
    return log_ratio.clamp(max=MOST_NATS)


def ratio_of(log_ratio: Tensor) -> Tensor:
    """The ratio of two probabilities, from its log in nats; at most `LARGEST_RATIO`. Any shape, same dtype."""
    return bounded(log_ratio).exp()
