"""The vocabulary split over tp: a chunk of tokens' softmax over this rank's rows, joined with those of the others.

A chunk has one buffer of [chunk, rows] in fp32 (fp64 for fp64 inputs) that holds first the logits, then what the
kernels make of them, and where no other buffer does, the gradient of the logits (`logit_gradient.py`).
`chunk_kernels.py` has what is done to it element by element.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from aspo_megatron.parallel.log_prob.chunk_kernels import ChunkKernels, EagerKernels, Probabilities, TritonKernels

BLOCK_ROWS = 2 << 10
"""Vocabulary rows at a time, where 16-bit weights take a detour through fp32: on a CPU."""


@dataclass(frozen=True)
class DeviceTraits:
    """What differs between CPU and GPU here.

    Attributes:
        chunk_bytes: for a chunk's buffer, at least. On CPU by measurement, docs/log_prob.md.
        chunk_tokens: of a chunk, where its buffer then takes at most one of `memory_parts` of the device's memory. By
            arithmetic: a chunk reads and writes the weight's gradient, in a small part of the time of its products.
        memory_parts: see there.
        tile_bytes: part of a chunk that a thread, or a GPU, works on at a time, to stay in the cache: half the time on
            CPU.
        wide_products: products of 16-bit matrices can be had in fp32.
        aligned_rows: rows of a chunk's buffer begin at multiples of so many elements: what is read of them at once,
            and what products on a GPU need to be fast.
    """

    chunk_bytes: int
    chunk_tokens: int
    memory_parts: int
    tile_bytes: int
    wide_products: bool
    aligned_rows: int

    @classmethod
    def of(cls, tensor: Tensor) -> DeviceTraits:
        """Those of a tensor's device."""
        return _CPU if tensor.device.type == "cpu" else _GPU


_CPU = DeviceTraits(
    chunk_bytes=256 << 20,
    chunk_tokens=0,
    memory_parts=0,
    tile_bytes=2 << 20,
    wide_products=False,
    aligned_rows=1,
)
_GPU = DeviceTraits(
    chunk_bytes=1 << 30,
    chunk_tokens=4096,
    memory_parts=20,
    tile_bytes=32 << 20,
    wide_products=True,
    aligned_rows=16,
)
_MEMORY_STEP = 1 << 30
"""Memory of a device counts in whole steps: ranks that share a chunk may have GPUs that tell of some bytes less."""


@dataclass(frozen=True)
class VocabularyShard:
    """The rows of the output projection that this tp rank holds, without those that pad the vocabulary.

    Attributes:
        weight: [rows, hidden size]; no rows on a rank that holds padding alone.
        first: the token id of the first row.
        padded_rows: rows of every rank, padding included.
        group: the tp ranks; None: the vocabulary is not split.
        temperature: what logits are divided by.
        triton: whether a chunk's buffer is worked on by Triton's kernels.
    """

    weight: Tensor
    first: int
    padded_rows: int
    group: dist.ProcessGroup | None
    temperature: float
    triton: bool

    @classmethod
    def of(
        cls, weight: Tensor, vocab_size: int, group: dist.ProcessGroup | None, temperature: float, triton: bool
    ) -> VocabularyShard:
        """The shard of this rank, whose rows (padding included) are `weight`. Copies nothing."""
        padded_rows = weight.size(0)
        first = 0 if group is None else dist.get_rank(group) * padded_rows
        real = min(max(vocab_size - first, 0), padded_rows)
        return cls(weight.detach()[:real], first, padded_rows, group, temperature, triton)

    @property
    def rows(self) -> int:
        """Rows that are no padding."""
        return self.weight.size(0)

    @property
    def parallel(self) -> bool:
        """Whether other ranks hold other rows."""
        return self.group is not None and dist.get_world_size(self.group) > 1

    def local(self, targets: Tensor) -> Tensor:
        """The targets' row numbers, [chunk]: below 0 or at least `rows` where they are no rows of this shard."""
        return targets - self.first


class Workspace:
    """The buffers of a chunk, made once for all chunks.

    `logits`: [chunk, rows] fp32 (fp64). `short`: the same in the weight's dtype, for the products of a GPU with 16-bit
    weights, else None. `kernels`: what works on `logits`.
    """

    def __init__(self, shard: VocabularyShard, chunk: int) -> None:
        weight, dtype = shard.weight, accumulation_dtype(shard.weight)
        traits = DeviceTraits.of(weight)
        width = -(-shard.rows // traits.aligned_rows) * traits.aligned_rows
        self.logits = weight.new_empty((chunk, width), dtype=dtype)[:, : shard.rows]
        self.short = weight.new_empty((chunk, width))[:, : shard.rows] if needs_short_copy(weight) else None
        if shard.triton:
            self.kernels: ChunkKernels = TritonKernels(shard.temperature, short=self.short)
            return
        size = traits.tile_bytes * (torch.get_num_threads() if weight.device.type == "cpu" else 1)
        tile = min(max(size // (max(shard.rows, 1) * dtype.itemsize), 1), max(chunk, 1))
        scratch = weight.new_empty((tile, shard.rows), dtype=dtype)
        self.kernels = EagerKernels(scratch, shard.temperature, rounded=weight.dtype != dtype, short=self.short)


@dataclass(frozen=True)
class ChunkSoftmax:
    """A chunk's softmax. All but `probabilities`, of this rank's rows, are [chunk] and the same on all ranks.

    Attributes:
        probabilities: in the workspace.
        log_probs: of the targets.
        entropy: in nats.
        peak: the largest logit of the whole vocabulary, as the kernels have it in the buffer.
        log_sum: log-sum-exp of the logits relative to `peak`.
    """

    probabilities: Probabilities
    log_probs: Tensor
    entropy: Tensor
    peak: Tensor
    log_sum: Tensor


def accumulation_dtype(tensor: Tensor) -> torch.dtype:
    """fp32, or fp64 for fp64: what sums over the vocabulary and over tokens are taken in."""
    return torch.promote_types(tensor.dtype, torch.float32)


def needs_short_copy(weight: Tensor) -> bool:
    """Whether products with `weight` take a chunk's gradient in 16 bits: of 16-bit weights, on a GPU."""
    return DeviceTraits.of(weight).wide_products and weight.dtype != accumulation_dtype(weight)


def chunk_for(weight: Tensor, budget_bytes: int | None = None, memory: int | None = None) -> int:
    """How many tokens a chunk may have for its buffer to stay within a budget, at least 1. The same on all tp ranks.

    Args:
        weight: this rank's rows of the output projection. A row and token take 4 bytes (8 in fp64), and 2 more for a
            16-bit copy on a GPU.
        budget_bytes: None for 256 MiB on CPU; on a GPU for the buffer of 4,096 tokens, but at most a twentieth of its
            memory, and at least 1 GiB.
        memory: bytes of the GPU; None: those of the weight's.
    """
    per_token = len(weight) * (
        accumulation_dtype(weight).itemsize + (weight.itemsize if needs_short_copy(weight) else 0)
    )
    traits = DeviceTraits.of(weight)
    if budget_bytes is None:
        budget_bytes = traits.chunk_bytes
        if traits.memory_parts:
            whole = torch.cuda.get_device_properties(weight.device).total_memory if memory is None else memory
            share = whole // _MEMORY_STEP * _MEMORY_STEP // traits.memory_parts
            budget_bytes = max(budget_bytes, min(traits.chunk_tokens * per_token, share))
    return max(budget_bytes // per_token, 1)


def even_chunk(length: int, chunk: int) -> int:
    """The size of equal chunks, as few as chunks of at most `chunk` would be: a small rest would be slow."""
    return -(-length // max(-(-length // chunk), 1))


def chunk_logits(hidden: Tensor, shard: VocabularyShard, space: Workspace) -> Tensor:
    """The logits of a chunk's hidden states, [chunk, rows] in `space.logits`: of 16-bit inputs in fp32 all the same.

    They are still to be divided by what the kernels say.
    """
    logits = space.logits[: len(hidden)]
    temperature = shard.temperature / space.kernels.undivided
    if shard.weight.dtype == logits.dtype:
        return torch.addmm(logits, hidden, shard.weight.t(), beta=0, alpha=1.0 / temperature, out=logits)
    if space.short is not None:
        torch.mm(hidden, shard.weight.t(), out_dtype=logits.dtype, out=logits)
    else:
        hidden = hidden.to(logits.dtype)
        for block in blocks(shard.weight):
            torch.mm(hidden, shard.weight[block].to(logits.dtype).t(), out=logits[:, block])
    return logits if temperature == 1.0 else logits.div_(temperature)


def chunk_softmax(logits: Tensor, targets: Tensor, shard: VocabularyShard, space: Workspace) -> ChunkSoftmax:
    """From a chunk's logits, which may be overwritten, to its log-probs and entropy. One collective over tp.

    Each rank takes its own peak m_r and, with t = z - m_r, the sums s_r = sum exp(t) and d_r = sum exp(t) t, and the
    target's t. From those of all ranks, m = max m_r and f_r = exp(m_r - m), s = sum f_r s_r and
    d = sum f_r (d_r + (m_r - m) s_r): log p = (t + m_r - m) - log s, H = log s - d / s. Every t and m_r - m is at most
    0 and s at least 1, in floating point too, so no log-prob is above 0 and no entropy below it. Where logits are
    undivided, peaks are too, and differences are divided.
    """
    # Of a rank without rows: a peak that never is the largest, and is finite, so that it times 0 is 0.
    stats = logits.new_zeros(4, len(logits))
    stats[0] = torch.finfo(logits.dtype).min / 2
    if shard.rows:
        space.kernels.sums(logits, shard.local(targets), stats)
    shards = stats[None]
    if shard.parallel:
        shards = stats.new_empty(dist.get_world_size(shard.group), *stats.shape)
        dist.all_gather_into_tensor(shards.flatten(0, 1), stats, group=shard.group)
    peaks, sums, weighted, relative = shards.unbind(1)
    peak = peaks.amax(dim=0)
    below = peaks - peak
    if space.kernels.undivided != 1.0:
        below /= space.kernels.undivided
    factors = below.exp()
    total = (factors * sums).sum(dim=0)
    log_sum = total.log()
    mean = (factors * (weighted + below * sums)).sum(dim=0) / total
    owner = (targets // shard.padded_rows)[None]
    target = (relative + below).gather(0, owner).squeeze(0)
    own = 0 if shard.group is None else dist.get_rank(shard.group)
    probabilities = Probabilities(logits, stats[0], below[own] - log_sum)
    return ChunkSoftmax(probabilities, target - log_sum, log_sum - mean, peak, log_sum)


def blocks(weight: Tensor) -> Iterator[slice]:
    """A few rows of `weight` at a time."""
    for start in range(0, len(weight), BLOCK_ROWS):
        yield slice(start, min(start + BLOCK_ROWS, len(weight)))
