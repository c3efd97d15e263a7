"""What attention is held against: random queries, keys and values, and plain attention of them in fp64."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aspo_megatron.data.packing import Span
from aspo_megatron.parallel.device.plain_attention import attend_plainly, attend_plainly_backward

REFERENCE = "plain attention in fp64 of the same inputs"
ERROR = 2e-2
"""Relative, of values and gradients in bf16, whose steps are 2^-8."""
LSE_ERROR = 1e-3
"""Of a log-sum-exp in fp32, absolute."""


@dataclass(frozen=True)
class Case:
    """A batch of blocks: `mixed` inputs are parts of one tensor, and the upstream gradient is transposed."""

    name: str
    batch: int
    queries: int
    keys: int
    heads: int
    kv_heads: int
    head_dim: int
    causal: bool
    mixed: bool = False

    def __str__(self) -> str:
        heads = f"{self.heads}/{self.kv_heads} heads of {self.head_dim}"
        return f"{self.name}: {self.batch} x {self.queries} queries, {self.keys} keys, {heads}"


@dataclass(frozen=True)
class Values:
    """`out` [n, q, heads, d], `lse` [n, q, heads], and gradients of the inputs in their shapes."""

    out: Tensor
    lse: Tensor
    dq: Tensor
    dk: Tensor
    dv: Tensor


def draw(case: Case, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries, keys, values and the upstream gradient, [n, tokens, heads, d], fresh each time."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(dtype)

    n, d = case.batch, case.head_dim
    if not case.mixed:
        q, grad = (normal(n, case.queries, case.heads, d) for _ in range(2))
        k, v = (normal(n, case.keys, case.kv_heads, d) for _ in range(2))
        return q, k, v, grad
    tokens = max(case.queries, case.keys)
    q, k, v = normal(n, tokens, case.heads + 2 * case.kv_heads, d).split([case.heads, case.kv_heads, case.kv_heads], 2)
    grad = normal(n, case.heads, case.queries, d).transpose(1, 2)
    return q[:, : case.queries], k[:, : case.keys], v[:, : case.keys], grad


def in_fp64(q: Tensor, k: Tensor, v: Tensor, grad: Tensor, causal: bool, scale: float) -> Values:
    """Plain attention, forward and backward."""
    q, k, v, grad = (tensor.double().transpose(1, 2) for tensor in (q, k, v, grad))
    out, lse = attend_plainly(q, k, v, causal, scale)
    grads = attend_plainly_backward(grad, q, k, v, out, lse, causal, scale)
    return Values(*(tensor.transpose(1, 2) for tensor in (out, lse, *grads)))


@dataclass(frozen=True)
class Group:
    """Lengths of a prompt and of the responses that share it, as packed."""

    prompt: int
    responses: Sequence[int]


def spans_of(groups: Sequence[Group]) -> tuple[Span, ...]:
    """The packed spans."""
    spans: list[Span] = []
    stop = 0
    for group in groups:
        start, stop = stop, stop + group.prompt
        prompt = (start, stop)
        spans.append(Span(*prompt))
        for length in group.responses:
            start, stop = stop, stop + length
            spans.append(Span(start, stop, *prompt))
    return tuple(spans)


def whole_mask(spans: Sequence[Span], tokens: int, device: torch.device) -> Tensor:
    """[T, T], True where a query sees a key; nothing for padding, which is behind the last span."""
    seen = torch.zeros(tokens, tokens, dtype=torch.bool, device=device)
    for span in spans:
        own = slice(span.start, span.stop)
        size = span.stop - span.start
        seen[own, own] = torch.ones(size, size, dtype=torch.bool, device=device).tril()
        seen[own, span.prefix_start : span.prefix_stop] = True
    return seen


def masked_in_fp64(q: Tensor, k: Tensor, v: Tensor, grad: Tensor, spans: Sequence[Span], scale: float) -> Values:
    """Attention under the whole mask: [T, heads, d] each; rows without a key give zeros. A head at a time."""
    seen = whole_mask(spans, q.size(0), q.device)
    out, dq = (torch.zeros(q.shape, dtype=torch.float64, device=q.device) for _ in range(2))
    dk, dv = (torch.zeros(k.shape, dtype=torch.float64, device=q.device) for _ in range(2))
    lse = torch.full(q.shape[:2], -math.inf, dtype=torch.float64, device=q.device)
    group = q.size(1) // k.size(1)
    for head in range(q.size(1)):
        kv = head // group
        qh, kh, vh, gh = q[:, head].double(), k[:, kv].double(), v[:, kv].double(), grad[:, head].double()
        scores = (qh @ kh.t() * scale).masked_fill_(~seen, -math.inf)
        lse[:, head] = scores.logsumexp(dim=1)
        probs = scores.sub_(lse[:, head, None]).exp_().nan_to_num_(nan=0.0)
        out[:, head] = probs @ vh
        dv[:, kv] += probs.t() @ gh
        dscores = probs * (gh @ vh.t() - (gh * out[:, head]).sum(dim=1, keepdim=True)) * scale
        dq[:, head] = dscores @ kh
        dk[:, kv] += dscores.t() @ qh
    return Values(out, lse, dq, dk, dv)
