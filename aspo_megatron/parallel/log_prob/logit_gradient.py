"""From a chunk's softmax to its gradients of hidden states and weights, in the buffer that holds the softmax."""

from __future__ import annotations

import torch
from torch import Tensor

from aspo_megatron.parallel.log_prob.chunk_kernels import Probabilities, Upstream
from aspo_megatron.parallel.log_prob.vocabulary import VocabularyShard, Workspace, accumulation_dtype, blocks


def add_gradients(
    probabilities: Probabilities,
    upstream: Upstream,
    hidden: Tensor,
    targets: Tensor,
    shard: VocabularyShard,
    space: Workspace,
    grad_hidden: Tensor | None,
    grad_weight: Tensor | None,
) -> None:
    """A chunk's gradients of hidden states and weights, from its probabilities, whose buffer is overwritten.

    With g and g' the derivatives by log-prob and by the entropy H,

        dL/dz_v = g ([v = y] - p_v) - g' p_v (log p_v + H)

    The kernels may leave a factor of each token to the small side of both products.

    Args:
        probabilities: of the chunk, as its kernels keep them.
        upstream: derivatives of the loss.
        hidden: [chunk, hidden size].
        targets: [chunk].
        shard: the vocabulary's part on this rank.
        space: where the probabilities lie.
        grad_hidden: [chunk, hidden size], takes this rank's part of the gradient.
        grad_weight: [rows or more, hidden size] in fp32 (fp64): this chunk's gradient is added to it.
    """
    if not shard.rows:
        if grad_hidden is not None:
            grad_hidden.zero_()
        return
    gradient, rows_factor = space.kernels.gradient(probabilities, upstream, shard.local(targets))
    if grad_hidden is not None:
        _weight_product(gradient, shard.weight, out=grad_hidden)
        if rows_factor is not None:
            grad_hidden *= rows_factor[:, None]
    if grad_weight is not None:
        scaled = hidden if rows_factor is None else hidden * rows_factor[:, None]
        _add_hidden_product(grad_weight[: shard.rows], gradient, scaled)


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
