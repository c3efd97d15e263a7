"""Log-prob and entropy of tokens from hidden states, with the vocabulary split over tp and never whole.

For a token with hidden state h, logits z_v = (h . w_v) / T over the vocabulary, and target y:

    log p(y) = (z_y - m) - log s,    m = max_v z_v,  s = sum_v exp(z_v - m)
    H        = log s - (1/s) sum_v exp(z_v - m) (z_v - m)

With m subtracted first, neither loses digits to the size of the logits. Tokens are taken in chunks. A chunk computes
its logits for this rank's vocabulary shard, reduces m by one all-reduce and (s, sum exp(z - m) (z - m), z_y - m) by a
second, and drops the logits. Saved for backward are the hidden states and the weight shard (both exist anyway), the
target, log-sum-exp and entropy of each token. Backward computes a chunk's logits again, then with p = exp(z - lse)

    d log p(y) / dz_v = [v = y] - p_v,       dH / dz_v = -p_v (z_v - lse + H)

and from dz the gradients of hidden states (summed over tp) and of the weight shard. Extra memory is a few buffers of
chunk x vocab/tp, whatever the number of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def token_log_probs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    vocab_size: int,
    tp_group: dist.ProcessGroup,
    chunk: int,
) -> tuple[Tensor, Tensor]:
    """Log-prob of each target and entropy (nats) of each token's distribution over the vocabulary.

    Args:
        hidden: [R, hidden size], the same on all tp ranks. Its gradient is summed over tp.
        weight: [padded vocabulary / tp, hidden size], this rank's rows of the output projection.
        targets: [R], int64 token ids.
        temperature: logits are divided by it, the convention of the rollout engine.
        vocab_size: ids at or above it are padding: they get probability zero.
        tp_group: ranks that hold the other rows; rank r holds the r-th slice.
        chunk: tokens whose logits exist at the same time.

    Returns:
        log-probs and entropy, each [R], fp32 (fp64 for fp64 inputs). Both carry gradients.

    Raises:
        ValueError: if a target is not in the vocabulary; names its position and id.
    """
    bad = (targets < 0) | (targets >= vocab_size)
    if bool(bad.any()):
        position = int(bad.nonzero()[0])
        raise ValueError(f"target {int(targets[position])} at position {position} is not in 0..{vocab_size - 1}")
    log_probs, entropy = _TokenLogProbs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, temperature, vocab_size, tp_group, chunk
    )
    return log_probs, entropy


class _TokenLogProbs(torch.autograd.Function):
    """Saves hidden states, weight shard and targets (references), log-sum-exp and entropy [R]."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        temperature: float,
        vocab_size: int,
        tp_group: dist.ProcessGroup,
        chunk: int,
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(hidden.dtype, torch.float32)
        log_probs, entropy, lse = (hidden.new_empty(targets.shape, dtype=dtype) for _ in range(3))
        for part in _chunks(len(targets), chunk):
            logits = _chunk_logits(hidden[part], weight, temperature, vocab_size, tp_group)
            peak, log_sum, target, mean = _reduce(logits, targets[part], weight.size(0), tp_group)
            log_probs[part] = target - log_sum
            entropy[part] = log_sum - mean
            lse[part] = peak + log_sum
        ctx.save_for_backward(hidden, weight, targets, lse, entropy)
        ctx.temperature, ctx.vocab_size, ctx.tp_group, ctx.chunk = temperature, vocab_size, tp_group, chunk
        return log_probs, entropy

    @staticmethod
    def backward(ctx: Any, grad_log_probs: Tensor, grad_entropy: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, lse, entropy = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        # Accumulated over chunks in fp32 even for bf16 weights: a sum of many small terms.
        grad_weight = torch.zeros_like(weight, dtype=lse.dtype)
        with_entropy = bool(grad_entropy.count_nonzero())
        for part in _chunks(len(targets), ctx.chunk):
            logits = _chunk_logits(hidden[part], weight, ctx.temperature, ctx.vocab_size, ctx.tp_group)
            grad = grad_log_probs[part][:, None]
            logits -= lse[part][:, None]  # log p, -inf on padding
            probs = torch.exp(logits)
            if with_entropy:
                logits.masked_fill_(probs == 0, 0.0)  # p log p -> 0, where log p is -inf
                dlogits = probs * (-grad - grad_entropy[part][:, None] * (logits + entropy[part][:, None]))
            else:
                dlogits = probs.mul_(-grad)
            del logits, probs
            rows, local = _owned(targets[part], weight.size(0), ctx.tp_group)
            dlogits[rows, local] += grad_log_probs[part][rows]
            dlogits /= ctx.temperature
            dlogits = dlogits.to(weight.dtype)
            torch.mm(dlogits, weight, out=grad_hidden[part])
            grad_weight += dlogits.t() @ hidden[part]
        if dist.get_world_size(ctx.tp_group) > 1:
            dist.all_reduce(grad_hidden, group=ctx.tp_group)
        return grad_hidden, grad_weight.to(weight.dtype), None, None, None, None, None


def _chunks(length: int, chunk: int) -> Iterator[slice]:
    for start in range(0, length, chunk):
        yield slice(start, min(start + chunk, length))


def _chunk_logits(
    hidden: Tensor, weight: Tensor, temperature: float, vocab_size: int, tp_group: dist.ProcessGroup
) -> Tensor:
    """This rank's logits [chunk, vocab/tp] in fp32 (fp64), divided by the temperature, -inf on padding."""
    logits = (hidden @ weight.t()).to(torch.promote_types(hidden.dtype, torch.float32))
    if temperature != 1.0:
        logits /= temperature
    real = vocab_size - dist.get_rank(tp_group) * weight.size(0)
    if real < weight.size(0):
        logits[:, max(real, 0) :] = -math.inf
    return logits


def _owned(targets: Tensor, rows: int, tp_group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """Positions in the chunk whose target lies on this rank, and those targets' local row numbers."""
    local = targets - dist.get_rank(tp_group) * rows
    positions = ((local >= 0) & (local < rows)).nonzero().squeeze(1)
    return positions, local[positions]


def _reduce(
    logits: Tensor, targets: Tensor, rows: int, tp_group: dist.ProcessGroup
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Of each token of a chunk, over all tp ranks; the logits are overwritten.

    Returns:
        The largest logit, and relative to it the log-sum-exp, the target's logit and the mean logit.
    """
    parallel = dist.get_world_size(tp_group) > 1
    peak = logits.max(dim=1).values
    if parallel:
        dist.all_reduce(peak, op=dist.ReduceOp.MAX, group=tp_group)
    logits -= peak[:, None]
    weights = torch.exp(logits)
    sums = logits.new_zeros(3, len(targets))
    sums[0] = weights.sum(dim=1)
    positions, local = _owned(targets, rows, tp_group)
    sums[1, positions] = logits[positions, local]
    # The last use of the logits; 0 x -inf on padding must count nothing.
    sums[2] = weights.mul_(logits.masked_fill_(weights == 0, 0.0)).sum(dim=1)
    if parallel:
        dist.all_reduce(sums, group=tp_group)
    return peak, torch.log(sums[0]), sums[1], sums[2] / sums[0]
