"""The vocabulary split over tp: a chunk of tokens' softmax over this rank's rows, joined with those of the others.

Everything here works on one chunk, in one buffer of [chunk, rows] in fp32 (fp64 for fp64 inputs) that holds first the
logits, then exp(logits - peak), then the gradient of the logits. What is done to it element by element goes tile by
tile, a few rows that stay in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

_TILE_BYTES = {"cpu": 2 << 20, "cuda": 32 << 20}
"""Part of a chunk that a thread, or a GPU, works on at a time, so that it stays in the cache: half the time on CPU."""

_BLOCK = {"cpu": 2 << 10, "cuda": 16 << 10}
"""Vocabulary rows at a time, where 16-bit weights take a detour through fp32."""

_LEAST_SCALE = 1e-20
"""Probabilities below it are as good as 0 beside the 1 of the target, in fp32 and in fp64."""


@dataclass(frozen=True)
class VocabularyShard:
    """The rows of the output projection that this tp rank holds, without those that pad the vocabulary.

    Attributes:
        weight: [rows, hidden size]; no rows on a rank that holds padding alone.
        first: the token id of the first row.
        padded_rows: rows of every rank, padding included.
        group: the tp ranks.
        temperature: what logits are divided by.
    """

    weight: Tensor
    first: int
    padded_rows: int
    group: dist.ProcessGroup
    temperature: float

    @classmethod
    def of(cls, weight: Tensor, vocab_size: int, group: dist.ProcessGroup, temperature: float) -> VocabularyShard:
        """The shard of this rank, whose rows (padding included) are `weight`. Copies nothing."""
        padded_rows = weight.size(0)
        first = dist.get_rank(group) * padded_rows
        real = min(max(vocab_size - first, 0), padded_rows)
        return cls(weight.detach()[:real], first, padded_rows, group, temperature)

    @property
    def rows(self) -> int:
        """Rows that are no padding."""
        return self.weight.size(0)

    @property
    def parallel(self) -> bool:
        """Whether other ranks hold other rows."""
        return dist.get_world_size(self.group) > 1

    def locate(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Which targets are rows of this shard, [chunk] bool, and their row numbers (any row for the others)."""
        local = targets - self.first
        return (local >= 0) & (local < self.rows), local.clamp(0, max(self.rows - 1, 0))


class Workspace:
    """The buffers of a chunk, made once for all chunks.

    `logits`: [chunk, rows] fp32 (fp64). `short`: the same in the weight's dtype, for the products of a GPU with 16-bit
    weights, else None. `tile`: a few rows like those of `logits`.
    """

    def __init__(self, shard: VocabularyShard, chunk: int) -> None:
        weight = shard.weight
        dtype = accumulation_dtype(weight)
        rows = max(shard.rows, 1)
        size = _TILE_BYTES[weight.device.type] * (1 if weight.is_cuda else torch.get_num_threads())
        tile = min(max(size // (rows * dtype.itemsize), 1), max(chunk, 1))
        self.logits = weight.new_empty((chunk, shard.rows), dtype=dtype)
        self.short = weight.new_empty((chunk, shard.rows)) if weight.is_cuda and weight.dtype != dtype else None
        self.tile = weight.new_empty((tile, shard.rows), dtype=dtype)

    def tiles(self, values: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Parts of a chunk's `values`: which tokens, their values, and scratch space of the same shape."""
        step = len(self.tile)
        for start in range(0, len(values), step):
            part = values[start : start + step]
            yield slice(start, start + len(part)), part, self.tile[: len(part)]


@dataclass(frozen=True)
class ChunkSoftmax:
    """A chunk's softmax. All but `exponentials` are [chunk]; all but it and `log_scale` are the same on all ranks.

    Attributes:
        exponentials: [chunk, rows], in the workspace: a probability is exponentials * exp(log_scale).
        log_scale: see there.
        log_probs: of the targets.
        entropy: in nats.
        peak: the largest logit of the whole vocabulary.
        log_sum: log-sum-exp of the logits relative to `peak`.
    """

    exponentials: Tensor
    log_scale: Tensor
    log_probs: Tensor
    entropy: Tensor
    peak: Tensor
    log_sum: Tensor


def accumulation_dtype(tensor: Tensor) -> torch.dtype:
    """fp32, or fp64 for fp64: what sums over the vocabulary and over tokens are taken in."""
    return torch.promote_types(tensor.dtype, torch.float32)


def chunk_logits(hidden: Tensor, shard: VocabularyShard, space: Workspace) -> Tensor:
    """The logits of a chunk's hidden states, [chunk, rows] in `space.logits`: of 16-bit inputs in fp32 all the same."""
    logits = space.logits[: len(hidden)]
    if shard.weight.dtype == logits.dtype:
        return torch.addmm(logits, hidden, shard.weight.t(), beta=0, alpha=1.0 / shard.temperature, out=logits)
    if hidden.is_cuda:
        torch.mm(hidden, shard.weight.t(), out_dtype=logits.dtype, out=logits)
    else:
        hidden = hidden.to(logits.dtype)
        for block in _blocks(shard.weight):
            torch.mm(hidden, shard.weight[block].to(logits.dtype).t(), out=logits[:, block])
    return logits if shard.temperature == 1.0 else logits.div_(shard.temperature)


def chunk_softmax(logits: Tensor, targets: Tensor, shard: VocabularyShard, space: Workspace) -> ChunkSoftmax:
    """From a chunk's logits, which are overwritten, to its log-probs and entropy. One collective over tp.

    Each rank takes its own peak m_r and, with t = z - m_r, the sums s_r = sum exp(t) and d_r = sum exp(t) t, and the
    target's t. From those of all ranks, m = max m_r and f_r = exp(m_r - m), s = sum f_r s_r and
    d = sum f_r (d_r + (m_r - m) s_r): log p = (t + m_r - m) - log s, H = log s - d / s. Every t and m_r - m is at most
    0 and s at least 1, in floating point too, so no log-prob is above 0 and no entropy below it.
    """
    # Of a rank without rows: a peak that never is the largest, and is finite, so that it times 0 is 0.
    stats = logits.new_zeros(4, len(logits))
    stats[0] = torch.finfo(logits.dtype).min / 2
    if shard.rows:
        _, row = shard.locate(targets)
        stats[3] = logits.gather(1, row[:, None]).squeeze(1)
        for tokens, part, scratch in space.tiles(logits):
            peak = torch.amax(part, dim=1, out=stats[0, tokens])
            torch.sub(part, peak[:, None], out=scratch)
            torch.exp(scratch, out=part)
            torch.sum(part, dim=1, out=stats[1, tokens])
            torch.sum(scratch.mul_(part), dim=1, out=stats[2, tokens])
        stats[3] -= stats[0]
    shards = stats[None]
    if shard.parallel:
        shards = stats.new_empty(dist.get_world_size(shard.group), *stats.shape)
        dist.all_gather(list(shards.unbind(0)), stats, group=shard.group)
    peaks, sums, weighted, relative = shards.unbind(1)
    peak = peaks.amax(dim=0)
    below = peaks - peak
    factors = below.exp()
    total = (factors * sums).sum(dim=0)
    log_sum = total.log()
    mean = (factors * (weighted + below * sums)).sum(dim=0) / total
    owner = (targets // shard.padded_rows)[None]
    target = (relative + below).gather(0, owner).squeeze(0)
    log_scale = (stats[0] - peak) - log_sum
    return ChunkSoftmax(logits, log_scale, target - log_sum, log_sum - mean, peak, log_sum)


def exponentials(logits: Tensor, peak: Tensor) -> Tensor:
    """exp(logits - peak), in place."""
    return logits.sub_(peak[:, None]).exp_()


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
    factor = upstream.by_log_prob / shard.temperature
    if upstream.by_entropy is not None:
        by_entropy = upstream.by_entropy / shard.temperature
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
    alone = (-scale * (factor + grad_entropy * (log_scale + entropy)))[:, None]
    with_log = (scale * grad_entropy)[:, None]
    for tokens, part, scratch in space.tiles(exponentials):
        torch.special.entr(part, out=scratch)
        part.mul_(alone[tokens]).addcmul_(scratch, with_log[tokens])


def _weight_product(gradient: Tensor, weight: Tensor, out: Tensor) -> None:
    """Gradient of logits times `weight` into `out`."""
    if weight.dtype == gradient.dtype:
        torch.mm(gradient, weight, out=out)
        return
    total = gradient.new_zeros(out.shape)
    for block in _blocks(weight):
        total.addmm_(gradient[:, block], weight[block].to(gradient.dtype))
    out.copy_(total)


def _add_hidden_product(total: Tensor, gradient: Tensor, hidden: Tensor) -> None:
    """Add gradient^T hidden to `total`, in its precision."""
    if gradient.dtype == total.dtype:
        total.addmm_(gradient.t(), hidden.to(gradient.dtype))
        return
    for block in _blocks(total):
        total[block] += torch.mm(gradient[:, block].t(), hidden, out_dtype=total.dtype)


def _blocks(weight: Tensor) -> Iterator[slice]:
    size = _BLOCK[weight.device.type]
    for start in range(0, len(weight), size):
        yield slice(start, min(start + size, len(weight)))
