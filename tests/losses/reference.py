"""Independent references in float64: surrogates written on probabilities as the papers print them, one token at a time,
and differentiated by autograd down to the logits. Nothing here shares code or algebra with the product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aspo_megatron.losses import Loss, LossOutput

VOCAB = 7


@dataclass(frozen=True)
class Case:
    """Tokens with chosen ratios: logits [tokens, VOCAB] and the ids whose log-probs the losses see."""

    logits: Tensor
    token_ids: Tensor
    old_log_probs: Tensor
    advantages: Tensor
    mask: Tensor
    entropy: Tensor
    cu_seqlens: Tensor
    selected: Tensor | None = None


def make_case(
    ratios: Sequence[float],
    advantages: Sequence[float],
    mask: Sequence[bool] | None = None,
    lengths: Sequence[int] = (),
) -> Case:
    """Random logits, and old log-probs such that token i has ratios[i]."""
    n = len(ratios)
    generator = torch.Generator().manual_seed(n)
    logits = torch.randn(n, VOCAB, dtype=torch.float64, generator=generator)
    token_ids = torch.randint(VOCAB, (n,), generator=generator)
    log_probs = gather_log_probs(logits, token_ids)
    lengths = lengths or (n,)
    assert sum(lengths) == n
    return Case(
        logits=logits,
        token_ids=token_ids,
        old_log_probs=log_probs - torch.tensor(ratios, dtype=torch.float64).log(),
        advantages=torch.tensor(advantages, dtype=torch.float64),
        mask=torch.ones(n, dtype=torch.bool) if mask is None else torch.tensor(mask),
        entropy=-(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1),
        cu_seqlens=torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()]),
    )


def gather_log_probs(logits: Tensor, token_ids: Tensor) -> Tensor:
    return logits.log_softmax(-1).gather(-1, token_ids[:, None])[:, 0]


def run(loss: Loss, case: Case) -> tuple[LossOutput, Tensor]:
    """The product's loss, and the gradient of its masked sum with respect to the logits."""
    logits = case.logits.clone().requires_grad_()
    log_probs = gather_log_probs(logits, case.token_ids)
    output = loss(
        *(log_probs, case.old_log_probs, case.advantages, case.mask),
        entropy=case.entropy,
        cu_seqlens=case.cu_seqlens,
        selected=case.selected,
    )
    (gradient,) = torch.autograd.grad((output.per_token * case.mask).sum(), logits)
    return output, gradient


def reference_gradient(case: Case, surrogate: Callable[[int, Tensor, Tensor, float], Tensor]) -> Tensor:
    """Gradient of -sum of surrogate(i, pi, pi_old, A) over the unmasked tokens i, with respect to the logits."""
    logits = case.logits.clone().requires_grad_()
    total = (logits * 0).sum()
    for i in range(len(logits)):
        if case.mask[i]:
            pi = logits[i].softmax(-1)[case.token_ids[i]]
            total = total - surrogate(i, pi, case.old_log_probs[i].exp(), float(case.advantages[i]))
    (gradient,) = torch.autograd.grad(total, logits)
    return gradient


def aspo(pi: Tensor, pi_old: Tensor, advantage: float, eps_low: float, eps_high: float, c: float | None) -> Tensor:
    """ASPO's surrogate of one token, to be maximised."""
    r = float((pi / pi_old).detach())
    if (advantage < 0 and r < 1 - eps_low) or (advantage > 0 and r > 1 + eps_high):
        return pi * 0
    if advantage > 0:
        if c is not None and 1 / r > c:
            return advantage * c * pi.log()
        return advantage * pi_old * pi / pi.detach() ** 2
    if c is not None and r > c:
        return advantage * c * pi.log()
    return advantage * pi / pi_old


def ppo(pi: Tensor, pi_old: Tensor, advantage: float, eps_low: float, eps_high: float, c: float | None) -> Tensor:
    """PPO's clipped surrogate of one token, to be maximised, with the standard dual clip."""
    r = pi / pi_old
    clipped = torch.min(r * advantage, r.clamp(1 - eps_low, 1 + eps_high) * advantage)
    if c is not None and advantage < 0:
        return torch.max(clipped, torch.full_like(clipped, c * advantage))
    return clipped
