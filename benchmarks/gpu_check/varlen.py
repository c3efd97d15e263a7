"""Attention of sequences of unequal length in one call, as PyTorch's flash attention has it, and in plain PyTorch.

`flash` is `aten._flash_attention_forward` with bounds. `plain` does what its source says it does, on any device, in
fp32 inside: it stands in for it on a CPU. Both take q [T, heads, d], k and v [K, kv heads, d] and bounds of the
segments, and give out [T, heads, d] and the log-sum-exp [heads, T] in fp32: 0 and infinity for a query without keys,
and nothing at all for rows behind the last bound.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from aspo_megatron.data.packing import Span


@dataclass(frozen=True)
class Segments:
    """Which queries meet which keys: bounds [n + 1] in int32 on the device, and the longest of each.

    `causal`: the last query of a segment sees its last key, the one before it one key less.
    """

    queries: Tensor
    keys: Tensor
    most_queries: int
    most_keys: int
    causal: bool

    @classmethod
    def of(cls, queries: Sequence[int], keys: Sequence[int], device: torch.device, *, causal: bool) -> Segments:
        """From the length of each segment."""

        def bounds(lengths: Sequence[int]) -> Tensor:
            return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)

        return cls(bounds(queries), bounds(keys), max(queries), max(keys), causal)


class Varlen(Protocol):
    """Forward and backward of the same attention."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp."""
        ...

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, segments: Segments, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of q, k and v; `out` and `lse` may be those of a larger attention that this one is a part of."""
        ...


class FlashVarlen:
    """PyTorch's, on a GPU."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> tuple[Tensor, Tensor]:
        """See `Varlen`."""
        s = segments
        out, lse, *_ = torch.ops.aten._flash_attention_forward(
            q, k, v, s.queries, s.keys, s.most_queries, s.most_keys, 0.0, s.causal, False, scale=scale
        )
        return out, lse

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, segments: Segments, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Varlen`."""
        s = segments
        unused = torch.zeros(2, dtype=torch.uint64, device=q.device)  # random state of a dropout that there is none of
        dq, dk, dv = torch.ops.aten._flash_attention_backward(
            grad, q, k, v, out, lse, s.queries, s.keys, s.most_queries, s.most_keys, 0.0, s.causal, unused, unused,
            scale=scale,
        )  # fmt: skip
        return dq, dk, dv


class PlainVarlen:
    """Segment by segment. What flash attention does not write is NaN."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor, segments: Segments, scale: float) -> tuple[Tensor, Tensor]:
        """See `Varlen`."""
        out = torch.full_like(q, math.nan)
        lse = torch.full((q.size(1), q.size(0)), math.nan, dtype=torch.float32, device=q.device)
        for own, keys in _slices(segments):
            scores = _scores(q[own], k[keys], segments.causal, scale)
            sums = scores.logsumexp(dim=-1)
            probs = (scores - sums[..., None]).exp().nan_to_num(nan=0.0)
            out[own] = torch.einsum("hqk,khd->qhd", probs, _repeated(v[keys], q)).to(q.dtype)
            lse[:, own] = torch.where(sums == -math.inf, math.inf, sums)
        return out, lse

    def backward(
        self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, segments: Segments, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Varlen`."""
        dq, dk, dv = (torch.full_like(tensor, math.nan) for tensor in (q, k, v))
        for own, keys in _slices(segments):
            upstream = grad[own].float()
            scores = _scores(q[own], k[keys], segments.causal, scale)
            probs = (scores - lse[:, own, None]).exp()
            delta = (upstream * out[own].float()).sum(dim=-1).t()
            dscores = torch.einsum("qhd,khd->hqk", upstream, _repeated(v[keys], q)) - delta[..., None]
            dscores = dscores * probs * scale
            dq[own] = torch.einsum("hqk,khd->qhd", dscores, _repeated(k[keys], q)).to(q.dtype)
            dk[keys] = _summed(torch.einsum("hqk,qhd->khd", dscores, q[own].float()), k)
            dv[keys] = _summed(torch.einsum("hqk,qhd->khd", probs, upstream), v)
        return dq, dk, dv


def _slices(segments: Segments) -> list[tuple[slice, slice]]:
    pairs = [itertools.pairwise(bounds.tolist()) for bounds in (segments.queries, segments.keys)]
    return [(slice(*queries), slice(*keys)) for queries, keys in zip(*pairs, strict=True)]


def _scores(q: Tensor, k: Tensor, causal: bool, scale: float) -> Tensor:
    scores = torch.einsum("qhd,khd->hqk", q.float(), _repeated(k, q)) * scale
    if causal:
        query = torch.arange(q.size(0), device=q.device)[:, None] + k.size(0) - q.size(0)
        scores = scores.masked_fill(torch.arange(k.size(0), device=q.device) > query, -math.inf)
    return scores


def _repeated(rows: Tensor, q: Tensor) -> Tensor:
    return rows.float().repeat_interleave(q.size(1) // rows.size(1), dim=1)


def _summed(rows: Tensor, like: Tensor) -> Tensor:
    summed: Tensor = rows.unflatten(1, (like.size(1), -1)).sum(dim=2)
    return summed.to(like.dtype)


@dataclass(frozen=True)
class SharedPrompts:
    """Packed spans as two attentions: each span by itself, and responses with the keys of their prompt.

    `prompt_rows` [P]: the packed tokens that are the keys of the second. Padding is a segment of its own.
    """

    own: Segments
    prompts: Segments
    prompt_rows: Tensor

    @classmethod
    def of(cls, spans: Sequence[Span], tokens: int, device: torch.device) -> SharedPrompts:
        """Of packed spans, and of padding behind them up to `tokens`."""
        lengths = [span.stop - span.start for span in spans] + [tokens - spans[-1].stop]
        runs: list[tuple[int, int, int]] = []  # queries and the keys' bounds: of a prompt, and of all its responses
        for span in spans:
            size, prefix = span.stop - span.start, (span.prefix_start, span.prefix_stop)
            if runs and prefix[1] and runs[-1][1:] == prefix:
                runs[-1] = (runs[-1][0] + size, *prefix)
            else:
                runs.append((size, *prefix))
        runs.append((lengths[-1], 0, 0))
        rows = [torch.arange(start, stop, device=device) for _, start, stop in runs]
        keys = [stop - start for _, start, stop in runs]
        return cls(
            Segments.of(lengths, lengths, device, causal=True),
            Segments.of([queries for queries, *_ in runs], keys, device, causal=False),
            torch.cat(rows),
        )

    def forward(self, kernel: Varlen, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Output and log-sum-exp of both attentions together."""
        out, lse = kernel.forward(q, k, v, self.own, scale)
        to_prompt, prompt_lse = kernel.forward(q, k[self.prompt_rows], v[self.prompt_rows], self.prompts, scale)
        prompt_lse = prompt_lse.masked_fill(prompt_lse == math.inf, -math.inf)
        merged = torch.logaddexp(lse, prompt_lse)
        kept, added = ((part - merged).exp().t().unsqueeze(-1) for part in (lse, prompt_lse))
        return (out * kept + to_prompt * added).to(q.dtype), merged

    def backward(
        self, kernel: Varlen, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, scale: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients, from the merged output and log-sum-exp."""
        dq, dk, dv = kernel.backward(grad, q, k, v, out, lse, self.own, scale)
        prompt_k, prompt_v = k[self.prompt_rows], v[self.prompt_rows]
        more, *by_prompt = kernel.backward(grad, q, prompt_k, prompt_v, out, lse, self.prompts, scale)
        for total, part in zip((dk, dv), by_prompt, strict=True):
            total.index_add_(0, self.prompt_rows, part)
        return dq.add_(more), dk, dv
