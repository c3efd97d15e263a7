"""Weights for tokens that an engine drew with probabilities of its own, unlike the trainer's for the same weights.

With k = pi_old(token) / pi_engine(token), both of the weights that generated the response:

- `tis`, truncated importance sampling: min(k, ratio_max). (Yao et al., "Your efficient RL framework secretly brings you
  off-policy RL training", 2025.)
- `icepop`: k where ratio_min <= k <= ratio_max, and 0 elsewhere. (Ling team, "Every step evolves", 2025.)

The policy loss of a token is multiplied by its weight, whatever the loss; KL and entropy bonus are not. No gradient
flows through a weight, and the denominator of the loss stays as it is: a token of weight 0 counts as one of loss 0.
"""

from __future__ import annotations

from typing import assert_never

import torch
from torch import Tensor

from aspo_megatron.config.words import RolloutCorrection
from aspo_megatron.losses.largest_ratio import ratio_of


def correction_weights(
    kind: RolloutCorrection, old_log_probs: Tensor, rollout_log_probs: Tensor, ratio_min: float, ratio_max: float
) -> Tensor:
    """The weight of each token, in the shape of the log-probs, which are the trainer's and the engine's."""
    ratio = ratio_of(old_log_probs - rollout_log_probs)
    match kind:
        case "none":
            return torch.ones_like(ratio)
        case "tis":
            return ratio.clamp(max=ratio_max)
        case "icepop":
            return torch.where((ratio >= ratio_min) & (ratio <= ratio_max), ratio, 0.0)
        case _:
            assert_never(kind)
