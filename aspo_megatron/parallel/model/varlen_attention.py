"""Attention over packed spans by two calls of flash attention for sequences of unequal length.

In the first each span is a segment that attends to itself, causally; under context parallelism each chunk of a span,
which attends to the span up to its own end. In the second, responses attend to their prompts, and to all of them. Both
are merged by their log-sum-exps, as blocks are (`block_attention.py`), and both backward passes start from what is
merged. However many spans there are, it is the same few kernels. Memory is linear in tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aspo_megatron.parallel.device.attention_merge import merge
from aspo_megatron.parallel.device.varlen_kernels import Segments, attend_segments, attend_segments_backward
from aspo_megatron.parallel.model.context_parallel import ContextSlice


@dataclass(frozen=True)
class Part:
    """One of the calls. `rows`: [K], where its keys are among all; None: they are all keys, in their order."""

    segments: Segments
    rows: Tensor | None

    def keys(self, tensor: Tensor) -> Tensor:
        """Its keys or values, [K, kv heads, d], of all."""
        return tensor if self.rows is None else tensor.index_select(0, self.rows)


@dataclass(frozen=True)
class VarlenPlan:
    """Both calls for a micro-batch.

    Attributes:
        own: spans with themselves.
        prompts: responses with their prompts; None if there are none.
        triton: a kernel of Triton merges the two.
    """

    own: Part
    prompts: Part | None
    triton: bool

    def attend(self, q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
        """Local queries [T, heads, d] with keys and values of all context-parallel ranks; [T, heads, d].

        Padding attends to padding or to nothing; nothing attends to it.
        """
        out: Tensor = _VarlenAttention.apply(q, k, v, self, scale)  # type: ignore[no-untyped-call]
        return out


def plan_varlen(own: ContextSlice, triton: bool) -> VarlenPlan:
    """The two calls for this rank's queries, on the CPU. Padding is a segment of its own at the end of both."""
    size = len(own.tokens)
    used = sum(chunk.stop - chunk.start for chunk in own.chunks)
    padding = torch.arange(own.rank * size + used, (own.rank + 1) * size)
    queries = [chunk.stop - chunk.start for chunk in own.chunks]
    keys = [own.where[chunk.span.start : chunk.stop] for chunk in own.chunks]
    if len(padding):  # attends to itself, so that every query has a key
        queries.append(len(padding))
        keys.append(padding)
    segments = Segments.of(queries, list(map(len, keys)), causal=True)
    rows = torch.cat(keys) if own.ranks > 1 else None
    return VarlenPlan(Part(segments, rows), _prompts(own, len(padding)), triton)


def _prompts(own: ContextSlice, padding: int) -> Part | None:
    """Runs of queries with the prompt that they share, and with nothing between them."""
    runs: list[tuple[int, int, int]] = []  # how many queries, and where their keys are
    for chunk in own.chunks:
        size, keys = chunk.stop - chunk.start, (chunk.span.prefix_start, chunk.span.prefix_stop)
        if runs and runs[-1][1:] == keys:
            runs[-1] = (runs[-1][0] + size, *keys)
        else:
            runs.append((size, *keys))
    if not any(stop > start for _, start, stop in runs):
        return None
    if padding:
        runs.append((padding, 0, 0))
    rows = torch.cat([own.where[start:stop] for _, start, stop in runs])
    sizes = [(size, stop - start) for size, start, stop in runs]
    return Part(Segments.of(*zip(*sizes, strict=True), causal=False), rows)


class _VarlenAttention(torch.autograd.Function):
    """Saves queries and output [T, heads, d], keys and values [T, kv heads, d], log-sum-exp [heads, T]; no scores."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, plan: VarlenPlan, scale: float) -> Tensor:
        out, lse = attend_segments(q, plan.own.keys(k), plan.own.keys(v), plan.own.segments, scale)
        if plan.prompts is not None:
            part = plan.prompts
            merge(out, lse, *attend_segments(q, part.keys(k), part.keys(v), part.segments, scale), triton=plan.triton)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.plan, ctx.scale = plan, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, lse = ctx.saved_tensors
        plan: VarlenPlan = ctx.plan

        def backward_of(part: Part) -> tuple[Tensor, Tensor, Tensor]:
            keys, values = part.keys(k), part.keys(v)
            return attend_segments_backward(grad, q, keys, values, out, lse, part.segments, ctx.scale)

        dq, *by_key = backward_of(plan.own)
        if plan.own.rows is not None:
            by_key = [_put_back(rows, plan.own, torch.zeros_like(k)) for rows in by_key]
        if plan.prompts is not None:
            more, *by_prompt = backward_of(plan.prompts)
            dq.add_(more)
            by_key = [_put_back(rows, plan.prompts, total) for rows, total in zip(by_prompt, by_key, strict=True)]
        return dq, *by_key, None, None


def _put_back(gradient: Tensor, part: Part, total: Tensor) -> Tensor:
    """Add the gradient of a part's keys or values to those of all.

    A key is in a part at most twice, and each part is added by itself: the order of additions does not matter.
    """
    assert part.rows is not None
    return total.index_add_(0, part.rows, gradient)
