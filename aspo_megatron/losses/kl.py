"""Per-token estimators of the KL divergence of the policy from a reference model (Schulman, "Approximating KL")."""

from __future__ import annotations

from typing import assert_never

import torch
from torch import Tensor

from aspo_megatron.config.words import KlEstimator
from aspo_megatron.losses.largest_ratio import bounded


def estimate_kl(kind: KlEstimator, log_probs: Tensor, ref_log_probs: Tensor, mask: Tensor | None = None) -> Tensor:
    """Estimate of KL(pi || pi_ref) in nats at each token, for tokens sampled from pi.

    With d = log pi_ref - log pi, and the gradient with respect to log pi:

    - k1 = -d: unbiased, of either sign; gradient 1, whose mean on samples of pi is 0 (no use as a loss).
    - k2 = d^2 / 2: biased, >= 0; gradient -d, which is that of the KL on samples of pi.
    - k3 = exp(d) - d - 1: unbiased, >= 0; gradient 1 - exp(d). This is the paper's.

    For k3 d counts at most 20 (`largest_ratio.py`), and has no gradient beyond. k1 and k2 cannot overflow and have no
    bound.

    Args:
        kind: which estimator.
        log_probs: log pi(token), [tokens]; carries the gradient.
        ref_log_probs: log pi_ref(token), [tokens]; no gradient flows here.
        mask: [tokens], bool: where the KL counts; elsewhere value and gradient are exactly 0, whatever the
            log-probs. None counts all. `entropy.low_entropy_mask` restricts it to low-entropy tokens.
    """
    difference = ref_log_probs.detach() - log_probs
    if mask is not None:
        difference = difference.masked_fill(~mask, 0.0)
    match kind:
        case "k1":
            return -difference
        case "k2":
            return 0.5 * difference.square()
        case "k3":
            return k3(difference)
        case _:
            assert_never(kind)


def k3(difference: Tensor) -> Tensor:
    """exp(d) - d - 1 of the bounded d, without the cancellation that leaves nothing of a small d in fp32."""
    difference = bounded(difference)
    return torch.expm1(difference) - difference
