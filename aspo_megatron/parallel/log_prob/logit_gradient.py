"""From a chunk's softmax to its gradients of hidden states and weights, in the buffer that holds the softmax."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from aspo_megatron.parallel.log_prob.vocabulary import VocabularyShard, Workspace, accumulation_dtype, blocks

_LEAST_SCALE = 1e-20
"""Probabilities below it are as good as 0 beside the 1 of the target, in fp32 and in fp64."""


@dataclass(frozen=True)
class Upstream:
    """A chunk's derivatives of the loss: by log-prob, and by entropy or None for zero. Each [chunk].

    `entropy` is the entropy itself.
    """

    by_log_prob: Tensor
    by_entropy: Tensor | None
    entropy: Tensor


def add_gradients(
    exponentials: Tensor,
    log_scale: Tensor,
    upstream: Upstream,
    hidden: Tensor,
    targets: Tensor,
    shard: VocabularyShard,
    space: Workspace,
    grad_hidden: Tensor | None,
    grad_weight: Tensor | None,
) -> None:
    """A chunk's gradients of hidden states and weights, from its exponentials, which are overwritten.

    With p = a e, e the exponentials and a = exp(log_scale), g and g' the derivatives by log-prob and by the entropy H,

        dL/dz_v = g ([v = y] - p_v) - g' p_v (log p_v + H)

    Without g', the rows are left as e - [v = y] / a: their factor -g a goes to the small side of both products.

    Args:
        exponentials: [chunk, rows], of `ChunkSoftmax`.
        log_scale: [chunk], the same.
        upstream: derivatives of the loss.
        hidden: [chunk, hidden size].
        targets: [chunk].
        shard: the vocabulary's part on this rank.
        space: where the exponentials lie.
        grad_hidden: [chunk, hidden size], takes this rank's part of the gradient.
        grad_weight: [rows or more, hidden size] in fp32 (fp64): this chunk's gradient is added to it.
    """
    if not shard.rows:
        if grad_hidden is not None:
            grad_hidden.zero_()
        return
    scale = log_scale.exp().clamp(min=_LEAST_SCALE)
    factor = upstream.by_log_prob.to(exponentials.dtype) / shard.temperature
    if upstream.by_entropy is not None:
        by_entropy = upstream.by_entropy.to(exponentials.dtype) / shard.temperature
        _add_entropy_gradient(exponentials, factor, by_entropy, log_scale, upstream.entropy, space)
        one, rows_factor = factor, None
    elif shard.weight.dtype != exponentials.dtype:
        # 16 bits keep few digits of 1 - p: the difference is taken before they do.
        exponentials *= (-factor * scale)[:, None]
        one, rows_factor = factor, None
    else:
        one, rows_factor = -1.0 / scale, -factor * scale
    mine, row = shard.locate(targets)
    exponentials.scatter_add_(1, row[:, None], torch.where(mine, one, 0.0)[:, None])
    gradient = exponentials if space.short is None else space.short[: len(exponentials)].copy_(exponentials)
    if grad_hidden is not None:
        _weight_product(gradient, shard.weight, out=grad_hidden)
        if rows_factor is not None:
            grad_hidden *= rows_factor[:, None]
    if grad_weight is not None:
        scaled = hidden if rows_factor is None else hidden * rows_factor[:, None]
        _add_hidden_product(grad_weight[: shard.rows], gradient, scaled)


def _add_entropy_gradient(
    exponentials: Tensor, factor: Tensor, grad_entropy: Tensor, log_scale: Tensor, entropy: Tensor, space: Workspace
) -> None:
    """-p (g + g' (log p + H)) in place of the exponentials e; entr(e) = -e log e is 0 where e is."""
    scale = log_scale.exp()
    alone = -scale * (factor + grad_entropy * (log_scale + entropy))
    space.kernels.entropy_gradient(exponentials, alone, scale * grad_entropy)


def _weight_product(gradient: Tensor, weight: Tensor, out: Tensor) -> None:
    """Gradient of logits times `weight` into `out`: a sum over the vocabulary, in fp32 (fp64) and rounded once."""
    if weight.dtype == gradient.dtype == accumulation_dtype(weight):
        torch.mm(gradient, weight, out=out)
        return
    if weight.dtype == gradient.dtype:
        # Not into `out`: cuBLAS may split a sum of so many terms, and then adds the parts in the dtype of the output.
        out.copy_(torch.mm(gradient, weight, out_dtype=accumulation_dtype(weight)))
        return
    total = gradient.new_zeros(out.shape)
    for block in blocks(weight):
        total.addmm_(gradient[:, block], weight[block].to(gradient.dtype))
    out.copy_(total)


def _add_hidden_product(total: Tensor, gradient: Tensor, hidden: Tensor) -> None:
    """Add gradient^T hidden to `total`, in its precision."""
    if gradient.dtype == total.dtype:
        total.addmm_(gradient.t(), hidden.to(gradient.dtype))
        return
    torch.addmm(total, gradient.t(), hidden, out_dtype=total.dtype, out=total)
