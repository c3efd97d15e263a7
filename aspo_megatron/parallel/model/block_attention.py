"""Attention over packed spans by blocks: a run of queries attends to a run of keys, causally or wholly.

Blocks of equal shape are batched. Each block gives its output and its log-sum-exp, and a query that lies in two blocks
(its own span, and its prompt's) merges them, out = sum_b exp(lse_b - lse) out_b. In backward each block needs only the
merged output and log-sum-exp, because its probabilities are exp(score - lse). Memory is linear in tokens.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aspo_megatron.parallel.device.attention_kernels import attend, attend_backward
from aspo_megatron.parallel.model.context_parallel import ContextSlice, runs_of


@dataclass(frozen=True)
class Block:
    """Blocks of one shape: `queries` [n, q] and `keys` [n, k] are token indices."""

    queries: Tensor
    keys: Tensor
    causal: bool


@dataclass(frozen=True)
class BlockPlan:
    """All blocks of a micro-batch, the causal ones first."""

    blocks: list[Block]

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Local queries [T, heads, d] with keys and values of all context-parallel ranks; [T, heads, d].

        A token without a block (padding) gets zeros, and gives no gradient.
        """
        out: Tensor = _BlockAttention.apply(q, k, v, self.blocks, scale)  # type: ignore[no-untyped-call]
        return out


def plan_blocks(own: ContextSlice) -> BlockPlan:
    """The blocks of this rank's queries, on the CPU; made once for a micro-batch, used by every layer.

    Queries are numbered among the local tokens, keys among the tokens of all context-parallel ranks.
    """
    shapes: dict[tuple[int, int, bool], list[tuple[Tensor, Tensor]]] = defaultdict(list)
    for chunk in own.chunks:
        queries = torch.arange(chunk.local, chunk.local + chunk.stop - chunk.start)
        shapes[len(queries), len(queries), True].append((queries, own.where[chunk.start : chunk.stop]))
    for chunks in runs_of(own.chunks):
        first, last = chunks[0], chunks[-1]
        span = first.span
        before = [own.where[span.prefix_start : span.prefix_stop], own.where[span.start : first.start]]
        keys = torch.cat(before)
        if len(keys):
            queries = torch.arange(first.local, last.local + last.stop - last.start)
            shapes[len(queries), len(keys), False].append((queries, keys))
    blocks = [
        Block(torch.stack([q for q, _ in runs]), torch.stack([k for _, k in runs]), causal)
        # Causal blocks first: each query has exactly one, which starts its sums.
        for (_, _, causal), runs in sorted(shapes.items(), key=lambda entry: (not entry[0][2], entry[0]))
    ]
    return BlockPlan(blocks)


class _BlockAttention(torch.autograd.Function):
    """Saves queries and output [T, heads, d], keys and values [T, kv heads, d], log-sum-exp [T, heads]; no scores.

    A token without a block (padding) gets zeros, and gives no gradient.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, blocks: list[Block], scale: float) -> Tensor:
        out = q.new_zeros(q.shape)
        lse = q.new_full(q.shape[:2], -math.inf, dtype=torch.float64 if q.dtype == torch.float64 else torch.float32)
        for block in blocks:
            part, part_lse = attend(
                _rows(q, block.queries), _rows(k, block.keys), _rows(v, block.keys), block.causal, scale
            )
            if not block.causal:
                old_lse = _rows(lse, block.queries)
                new_lse = torch.logaddexp(old_lse, part_lse)
                kept, added = (torch.exp(old - new_lse).unsqueeze(-1) for old in (old_lse, part_lse))
                part, part_lse = _rows(out, block.queries) * kept + part * added, new_lse
            _put_rows(out, block.queries, part)
            _put_rows(lse, block.queries, part_lse)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.blocks, ctx.scale = blocks, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        grads: list[Tensor] = [tensor.new_zeros(tensor.shape) for tensor in (q, k, v)]
        for block in ctx.blocks:
            qi, ki = block.queries, block.keys
            parts = attend_backward(  # without names, which would keep a block's rows while the next ones are made
                _rows(grad_out, qi),
                _rows(q, qi),
                _rows(k, ki),
                _rows(v, ki),
                _rows(out, qi),
                _rows(lse, qi),
                block.causal,
                ctx.scale,
            )
            for grad, part, index in zip(grads, parts, (qi, ki, ki), strict=True):
                # Not index_put_, which sorts the indices on a GPU first. With context parallelism a prompt's keys may
                # be several times in a block: their sum is right, and on a GPU not always added in the same order.
                grad.flatten(1).index_add_(0, index.flatten(), part.reshape(index.numel(), -1))
        return *grads, None, None


def _rows(tensor: Tensor, index: Tensor) -> Tensor:
    """`tensor[index]` along the first dim; several times as fast on a CPU."""
    rows: Tensor = tensor.index_select(0, index.flatten()).unflatten(0, index.shape)
    return rows


def _put_rows(tensor: Tensor, index: Tensor, rows: Tensor) -> None:
    """`tensor[index] = rows` along the first dim, where no index is there twice; several times as fast on a CPU."""
    tensor.flatten(1).index_copy_(0, index.flatten(), rows.reshape(index.numel(), -1).to(tensor.dtype))
