"""Log-prob and entropy of tokens from hidden states, with the vocabulary split over tp and never whole.

For a token with hidden state h, logits z_v = (h . w_v) / T over the vocabulary, and target y:

    log p(y) = (z_y - m) - log s,    m = max_v z_v,  s = sum_v exp(z_v - m)
    H        = log s - (1/s) sum_v exp(z_v - m) (z_v - m)

Tokens are taken in chunks, and a chunk's logits are dropped before the next one's are made (`vocabulary.py`): extra
memory does not depend on the number of tokens. There are two ways to the gradient:

`token_objective`, for losses whose value at a token depends on that token alone: their derivative by a log-prob is
known as soon as the log-prob is, so each chunk makes its gradients of hidden states and weights at once. Three matrix
products, nothing is computed again.

`token_log_probs`, for all others and for passes without gradient: backward computes the logits of all chunks but the
last one again.

See docs/log_prob.md for derivations, the memory formula and measurements.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from aspo_megatron.parallel.log_prob.checks import expect_targets_within, expect_unscaled
from aspo_megatron.parallel.log_prob.chunk_kernels import Probabilities, Upstream
from aspo_megatron.parallel.log_prob.logit_gradient import add_gradients
from aspo_megatron.parallel.log_prob.vocabulary import (
    VocabularyShard,
    Workspace,
    accumulation_dtype,
    chunk_logits,
    chunk_softmax,
    even_chunk,
)

Derivative = Callable[[slice, Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""Of a token-wise loss, for the tokens `slice` of R with log-probs and entropy [chunk]: d loss / d log-prob, [chunk],
and d loss / d entropy, [chunk] or None for zero."""


def token_log_probs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    temperature: float,
    vocab_size: int,
    tp_group: dist.ProcessGroup | None,
    chunk: int,
    triton: bool = False,
    sum_hidden_grad: bool = True,
) -> tuple[Tensor, Tensor]:
    """Log-prob of each target and entropy (nats) of each token's distribution over the vocabulary.

    Args:
        hidden: [R, hidden size], the same on all tp ranks. Its gradient is summed over tp.
        weight: [padded vocabulary / tp, hidden size], this rank's rows of the output projection.
        targets: [R], int64 token ids.
        temperature: logits are divided by it, the convention of the rollout engine.
        vocab_size: ids at or above it are padding: they get probability zero.
        tp_group: ranks that hold the other rows; rank r holds the r-th slice. None: all rows are here.
        chunk: the most tokens whose logits exist at the same time.
        triton: work on logits with Triton's kernels (`chunk_kernels.py`).
        sum_hidden_grad: False leaves each rank with its own part of the gradient of `hidden`, to be summed elsewhere.

    Returns:
        log-probs and entropy, each [R], fp32 (fp64 for fp64 inputs). Both carry gradients.

    Raises:
        ValueError: if a target is not in the vocabulary; names its position and id. Targets on a GPU are checked there,
            and a bad one ends the process: `check_targets` on the CPU says which one it is.
    """
    expect_targets_within(targets, vocab_size)
    keep = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    log_probs, entropy = _TokenLogProbs.apply(  # type: ignore[no-untyped-call]
        hidden, weight, targets, (vocab_size, tp_group, temperature, triton), chunk, keep, sum_hidden_grad
    )
    return log_probs, entropy


def token_objective(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    derivative: Derivative,
    *,
    temperature: float,
    vocab_size: int,
    tp_group: dist.ProcessGroup,
    chunk: int,
    triton: bool = False,
    sum_hidden_grad: bool = True,
    weight_grad: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probs and entropy as of `token_log_probs`, and the gradient of a token-wise loss, computed along the way.

    The loss is given by its derivative, scale included: the gradient is final. Add `anchor` to the loss's value, of
    which no gradient is taken: then backward hands on the gradients that were made here.

    Args:
        hidden: as in `token_log_probs`.
        weight: the same.
        targets: the same.
        derivative: called for each chunk, in order, without gradient recording. All tp ranks must give the same
            derivatives. Not called where nothing needs a gradient.
        temperature: the same.
        vocab_size: the same.
        tp_group: the same.
        chunk: the same.
        triton: the same.
        sum_hidden_grad: the same.
        weight_grad: fp32 (fp64), of weight's shape, such as megatron's `main_grad`. The gradient of the weight is
            added to it in this very call, and autograd is given none for it. `anchor` must then be propagated back
            with gradient 1.

    Returns:
        anchor: a scalar 0 whose backward gives the gradients of `hidden` and of `weight`; once.
        log-probs and entropy: [R], fp32 (fp64 for fp64 inputs), without gradient.

    Raises:
        ValueError: if a target is not in the vocabulary, as in `token_log_probs`.
        RuntimeError: from backward, if it is repeated or, with `weight_grad`, its gradient is not 1 (on a GPU, that is
            checked there and ends the process).
    """
    expect_targets_within(targets, vocab_size)
    recording, grad_weight = torch.is_grad_enabled(), None
    grad_hidden = torch.empty_like(hidden) if recording and hidden.requires_grad else None
    if recording and weight.requires_grad:
        grad_weight = weight_grad if weight_grad is not None else _zeros_for_sum(weight)
    shard = VocabularyShard.of(weight, vocab_size, tp_group, temperature, triton)
    with torch.no_grad():
        log_probs, entropy = _objective_chunks(hidden, targets, derivative, shard, chunk, grad_hidden, grad_weight)
        if grad_hidden is not None and shard.parallel and sum_hidden_grad:
            dist.all_reduce(grad_hidden, group=shard.group)
        returned = None if grad_weight is None or weight_grad is not None else grad_weight.to(weight.dtype)
    # A weight whose gradient is made is kept out of the graph: there, None for it would pass as announcing it.
    anchor: Tensor = _Anchor.apply(  # type: ignore[no-untyped-call]
        hidden, weight if weight_grad is None else weight.detach(), grad_hidden, returned, weight_grad is not None
    )
    return anchor, log_probs, entropy


def _objective_chunks(
    hidden: Tensor,
    targets: Tensor,
    derivative: Derivative,
    shard: VocabularyShard,
    chunk: int,
    grad_hidden: Tensor | None,
    grad_weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Log-probs and entropy; fills `grad_hidden` and adds to `grad_weight`, where they are given."""
    size = even_chunk(len(targets), chunk)
    space = Workspace(shard, size)
    log_probs, entropy = _per_token(hidden, 2)
    for part in _chunks(len(targets), size):
        softmax = chunk_softmax(chunk_logits(hidden[part], shard, space), targets[part], shard, space)
        log_probs[part], entropy[part] = softmax.log_probs, softmax.entropy
        if grad_hidden is None and grad_weight is None:
            continue
        by_log_prob, by_entropy = derivative(part, softmax.log_probs, softmax.entropy)
        add_gradients(
            softmax.probabilities,
            Upstream(by_log_prob, by_entropy, softmax.entropy),
            hidden[part],
            targets[part],
            shard,
            space,
            None if grad_hidden is None else grad_hidden[part],
            grad_weight,
        )
    return log_probs, entropy


class _Anchor(torch.autograd.Function):
    """A scalar 0 that keeps gradients computed before, and hands them on in backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        grad_hidden: Tensor | None,
        grad_weight: Tensor | None,
        accumulated: bool,
    ) -> Tensor:
        # Not by save_for_backward: backward scales them in place and lets go of them.
        ctx.gradients, ctx.accumulated = (grad_hidden, grad_weight), accumulated
        return hidden.new_zeros((), dtype=accumulation_dtype(hidden))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("token_objective: its gradients have been handed on already, backward works once")
        if ctx.accumulated:
            expect_unscaled(grad)
        gradients, ctx.gradients = ctx.gradients, None
        if not ctx.accumulated:
            gradients = tuple(None if gradient is None else gradient.mul_(grad) for gradient in gradients)
        return *gradients, None, None, None


class _TokenLogProbs(torch.autograd.Function):
    """Saves hidden states, weight shard and targets (references), and of each token its peak, log-sum-exp and entropy.

    With `keep`, the last chunk's probabilities too: its buffer stays, and backward, which begins with that chunk, goes
    on with it. So what fits in one chunk is never computed twice.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        shard_of: tuple[int, dist.ProcessGroup | None, float, bool],
        chunk: int,
        keep: bool,
        sum_hidden_grad: bool,
    ) -> tuple[Tensor, Tensor]:
        """`shard_of`: what `VocabularyShard.of` takes beside the weight."""
        ctx.set_materialize_grads(False)  # an output that the loss does not use is told by its gradient, None
        shard = VocabularyShard.of(weight, *shard_of)
        size = even_chunk(len(targets), chunk)
        space = Workspace(shard, size)
        log_probs, entropy, peak, log_sum = _per_token(hidden, 4)
        last = None
        for part in _chunks(len(targets), size):
            last = chunk_softmax(chunk_logits(hidden[part], shard, space), targets[part], shard, space)
            log_probs[part], entropy[part] = last.log_probs, last.entropy
            peak[part], log_sum[part] = last.peak, last.log_sum
        if keep:
            ctx.save_for_backward(hidden, weight, targets, peak, log_sum, entropy)
            ctx.shard_of, ctx.size, ctx.sum_hidden_grad = shard_of, size, sum_hidden_grad
            ctx.kept = None if last is None else (space, last.probabilities)
        return log_probs, entropy

    @staticmethod
    def backward(ctx: Any, grad_log_probs: Tensor | None, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, peak, log_sum, entropy = ctx.saved_tensors
        shard = VocabularyShard.of(weight, *ctx.shard_of)
        kept, ctx.kept = ctx.kept, None  # it is overwritten: a second backward computes it again
        space = kept[0] if kept is not None else Workspace(shard, ctx.size)
        grad_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        grad_weight = _zeros_for_sum(weight) if ctx.needs_input_grad[1] else None
        if grad_log_probs is None:
            grad_log_probs = torch.zeros_like(entropy)
        for part in reversed(list(_chunks(len(targets), ctx.size))):
            if kept is not None:
                probabilities, kept = kept[1], None
            else:
                logits = chunk_logits(hidden[part], shard, space)
                space.kernels.keep(logits, peak[part])
                probabilities = Probabilities(logits, peak[part], -log_sum[part])
            add_gradients(
                probabilities,
                Upstream(grad_log_probs[part], None if grad_entropy is None else grad_entropy[part], entropy[part]),
                hidden[part],
                targets[part],
                shard,
                space,
                None if grad_hidden is None else grad_hidden[part],
                grad_weight,
            )
        if grad_hidden is not None and shard.parallel and ctx.sum_hidden_grad:
            dist.all_reduce(grad_hidden, group=shard.group)
        grad_weight = None if grad_weight is None else grad_weight.to(weight.dtype)
        return grad_hidden, grad_weight, None, None, None, None, None


def _zeros_for_sum(weight: Tensor) -> Tensor:
    """For the weight's gradient, which is added up in fp32 even for bf16 weights: a sum of many small terms."""
    return torch.zeros_like(weight, dtype=accumulation_dtype(weight))


def _per_token(hidden: Tensor, count: int) -> list[Tensor]:
    """`count` uninitialised tensors, [R]."""
    return [hidden.new_empty(len(hidden), dtype=accumulation_dtype(hidden)) for _ in range(count)]


def _chunks(length: int, size: int) -> Iterator[slice]:
    for start in range(0, length, max(size, 1)):
        yield slice(start, min(start + size, length))
