"""How far two policies are from each other at a token, everything but the token being one other outcome."""

from __future__ import annotations

import torch
from torch import Tensor


def binary_tv(old_log_probs: Tensor, log_probs: Tensor) -> Tensor:
    """Total variation of "this token or another" under two policies: |p - p_old|, [tokens]."""
    return (log_probs.exp() - old_log_probs.exp()).abs()


def binary_kl(old_log_probs: Tensor, log_probs: Tensor) -> Tensor:
    """KL(p_old || p) of "this token or another" under two policies, in nats, [tokens].

    What is left for the others is computed from the logarithm, as 1 - p has no digits near p = 1; none at all counts
    as the smallest number there is.
    """
    smallest = torch.finfo(log_probs.dtype).tiny
    old_rest, rest = (-torch.expm1(values) for values in (old_log_probs, log_probs))
    of_token = old_log_probs.exp() * (old_log_probs - log_probs)
    return of_token + old_rest * (old_rest.clamp(min=smallest).log() - rest.clamp(min=smallest).log())
