"""Attention of many segments of unequal length in one call: PyTorch's flash attention, and what it does on a CPU.

q is [T, heads, d], k and v are [K, kv heads, d]; the rows of a segment are side by side. The kernel is that of flash
attention for `cu_seqlens`, of which four things must be known. It counts causality from the last query and last key. A
query without keys gets zeros and an infinite log-sum-exp, whose sign differs between versions. Rows behind the last
segment, in outputs as in gradients, are not written. And it reads the log-sum-exp [heads, T] by its address.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aspo_megatron.parallel.device.plain_attention import attend_plainly, attend_plainly_backward


@dataclass(frozen=True)
class Segments:
    """Which queries meet which keys.

    Attributes:
        queries: [n + 1] int32, where the segments' queries begin, and where the last ones end.
        keys: the same of their keys.
        most_queries: in a segment.
        most_keys: the same.
        causal: the last query of a segment sees its last key, the one before it one key less.
    """

    queries: Tensor
    keys: Tensor
    most_queries: int
    most_keys: int
    causal: bool

    @classmethod
    def of(cls, queries: Sequence[int], keys: Sequence[int], *, causal: bool) -> Segments:
        """From the length of each segment; on the CPU."""

        def bounds(lengths: Sequence[int]) -> Tensor:
            return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)

        return cls(bounds(queries), bounds(keys), max(queries, default=0), max(keys, default=0), causal)


def attend_segments(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> tuple[Tensor, Tensor]:
    """Output [T, heads, d] and log-sum-exp [heads, T], the latter in fp32 (on a CPU fp64 for fp64)."""
    if q.device.type == "cpu":
        return _plainly(q, k, v, segments, scale)
    s = segments
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, s.queries, s.keys, s.most_queries, s.most_keys, 0.0, s.causal, False, scale=scale
    )
    return out, lse


def attend_segments_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, segments: Segments, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v. `out` and `lse` may be those of a larger attention that this one is a part of."""
    if q.device.type == "cpu":
        return _plainly_backward(grad, q, k, v, out, lse, segments, scale)
    s = segments
    unused = torch.empty(2, dtype=torch.uint64, device=q.device)  # random state of a dropout that there is none of
    dq, dk, dv = torch.ops.aten._flash_attention_backward(
        grad, q, k, v, out, lse.contiguous(), s.queries, s.keys, s.most_queries, s.most_keys, 0.0, s.causal,
        unused, unused, scale=scale,
    )  # fmt: skip
    return dq, dk, dv


def _plainly(q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> tuple[Tensor, Tensor]:
    """Segment by segment. What flash attention does not write is NaN."""
    out = torch.full_like(q, math.nan)
    lse = q.new_full((q.size(1), q.size(0)), math.nan, dtype=torch.promote_types(q.dtype, torch.float32))
    for own, keys in _slices(segments):
        out[own], lse[:, own] = 0.0, math.inf
        if keys.stop > keys.start:
            inputs = (_batched(q[own]), _batched(k[keys]), _batched(v[keys]))
            part, sums = attend_plainly(*inputs, segments.causal, scale)
            out[own], lse[:, own] = part[0].transpose(0, 1), sums[0]
    return out, lse


def _plainly_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, segments: Segments, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    gradients = (torch.full_like(q, math.nan), torch.full_like(k, math.nan), torch.full_like(v, math.nan))
    for own, keys in _slices(segments):
        gradients[0][own] = 0.0
        if keys.stop == keys.start:
            continue
        upstream, queries, outs = _batched(grad[own]), _batched(q[own]), _batched(out[own])
        parts = attend_plainly_backward(
            upstream, queries, _batched(k[keys]), _batched(v[keys]), outs, lse[None, :, own], segments.causal, scale
        )
        for gradient, index, part in zip(gradients, (own, keys, keys), parts, strict=True):
            gradient[index] = part[0].transpose(0, 1)
    return gradients


def _slices(segments: Segments) -> list[tuple[slice, slice]]:
    pairs = [itertools.pairwise(bounds.tolist()) for bounds in (segments.queries, segments.keys)]
    return [(slice(*queries), slice(*keys)) for queries, keys in zip(*pairs, strict=True)]


def _batched(rows: Tensor) -> Tensor:
    """[n, heads, d] as [1, heads, n, d] in the fp32 (fp64) that a kernel computes in."""
    return rows.transpose(0, 1)[None].to(torch.promote_types(rows.dtype, torch.float32))
