"""Hidden states, an output layer and a loss at single tokens; and what `log_softmax` makes of them in fp64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from aspo_megatron.parallel.log_prob.autograd import token_objective

_AT_A_TIME = 1 << 25
"""Logits that exist at the same time in fp64."""


@dataclass(frozen=True)
class Problem:
    """`weight` has rows behind the vocabulary, which pad it. The loss is given by its derivatives at each token."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    by_log_prob: Tensor
    by_entropy: Tensor
    vocabulary: int
    temperature: float

    @classmethod
    def draw(cls, tokens: int, hidden: int, vocabulary: int, temperature: float, device: torch.device) -> Problem:
        """Random values in bf16; logits with a deviation of 2."""
        states = torch.randn(tokens, hidden, device=device)
        weight = torch.randn(vocabulary + 64, hidden, device=device) * (2 / hidden**0.5)
        return cls(
            states.bfloat16().requires_grad_(),
            weight.bfloat16().requires_grad_(),
            torch.randint(0, vocabulary, (tokens,), device=device),
            torch.randn(tokens, device=device),
            torch.randn(tokens, device=device),
            vocabulary,
            temperature,
        )

    def __str__(self) -> str:
        return f"{len(self.targets)} x {self.hidden.size(1)} x {self.vocabulary}, T={self.temperature:g}"


def token_wise(
    problem: Problem, total: Tensor, group: dist.ProcessGroup, *, chunk: int, with_entropy: bool, triton: bool
) -> tuple[Tensor, Tensor]:
    """`token_objective` and its backward, as in training: the weight's gradient is added to `total`, in fp32.

    Gives log-probs and entropy.
    """

    def derivative(part: slice, log_probs: Tensor, entropy: Tensor) -> tuple[Tensor, Tensor | None]:
        return problem.by_log_prob[part], problem.by_entropy[part] if with_entropy else None

    anchor, log_probs, entropy = token_objective(
        problem.hidden,
        problem.weight,
        problem.targets,
        derivative,
        temperature=problem.temperature,
        vocab_size=problem.vocabulary,
        tp_group=group,
        chunk=chunk,
        triton=triton,
        weight_grad=total,
    )
    anchor.backward()
    return log_probs, entropy


@dataclass(frozen=True)
class Answer:
    """Log-probs and entropy [n], gradients of hidden states and weight in their shapes."""

    log_probs: Tensor
    entropy: Tensor
    grad_hidden: Tensor
    grad_weight: Tensor


def in_fp64(problem: Problem, *, with_entropy: bool) -> Answer:
    """By `log_softmax` of whole logits, some tokens at a time."""
    with torch.no_grad():
        hidden, whole = problem.hidden.double(), problem.weight.double()
        weight = whole[: problem.vocabulary]
        grad_hidden, grad_weight = torch.zeros_like(hidden), torch.zeros_like(whole)
        log_probs, entropy = (torch.empty(len(hidden), dtype=torch.float64, device=hidden.device) for _ in range(2))
        for part in torch.arange(len(hidden), device=hidden.device).split(max(_AT_A_TIME // problem.vocabulary, 1)):
            log_p = torch.log_softmax(hidden[part] @ weight.t() / problem.temperature, dim=1)
            probs = log_p.exp()
            targets = problem.targets[part, None]
            log_probs[part] = log_p.gather(1, targets).squeeze(1)
            entropy[part] = -(probs * log_p).sum(dim=1)
            by_log_prob = problem.by_log_prob[part, None].double()
            gradient = -by_log_prob * probs
            gradient.scatter_add_(1, targets, by_log_prob)
            if with_entropy:
                gradient -= problem.by_entropy[part, None].double() * probs * (log_p + entropy[part, None])
            gradient /= problem.temperature
            grad_hidden[part] = gradient @ weight
            grad_weight[: problem.vocabulary] += gradient.t() @ hidden[part]
    return Answer(log_probs, entropy, grad_hidden, grad_weight)
