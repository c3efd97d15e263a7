"""How hard a loss pushes a token."""

from __future__ import annotations

import torch
from torch import Tensor

from aspo_megatron.losses.base import Loss


def gradient_weights(
    loss: Loss,
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    entropy: Tensor,
    cu_seqlens: Tensor,
) -> Tensor:
    """The weight w of each token's gradient -A * w * grad log pi: 1 is REINFORCE's, 0 is a token that is left out.

    Takes what `Loss` takes; 0 also where the mask is False or the advantage 0.

    Returns:
        [tokens], in the dtype of `log_probs`.
    """
    log_probs = log_probs.detach().requires_grad_()
    output = loss(log_probs, old_log_probs, advantages, mask, entropy=entropy, cu_seqlens=cu_seqlens)
    (gradient,) = torch.autograd.grad(output.per_token.sum(), log_probs)
    counts = mask & (advantages != 0)
    return torch.where(counts, -gradient / torch.where(counts, advantages, 1.0), 0.0)
