"""Attention in plain PyTorch, for any device and dtype: where no kernel of PyTorch's takes the tensors."""

from __future__ import annotations

import torch
from torch import Tensor

QUERY_CHUNK = 512
"""Queries whose scores exist at a time."""


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of a batch of blocks and its log-sum-exp, as `attention_kernels.attend` with heads before tokens.

    q is [n, heads, queries, d], k and v are [n, kv heads, keys, d]; gives [n, heads, queries, d] and
    [n, heads, queries] in fp32 (fp64 for fp64).
    """
    outs, lses = [], []
    for start in range(0, q.size(2), QUERY_CHUNK):
        scores = _scores(q, k, start, causal, scale)
        lse = torch.logsumexp(scores, dim=-1)
        probs = torch.softmax(scores, dim=-1).to(v.dtype)  # not exp(scores - lse): large scores would cost digits
        outs.append(_by_head(_by_group(probs, v) @ v, q))
        lses.append(lse)
    return torch.cat(outs, dim=2), torch.cat(lses, dim=2)


def attend_plainly_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v in their shapes, as `attention_kernels.attend_backward` with heads before tokens."""
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for start in range(0, q.size(2), QUERY_CHUNK):
        part = slice(start, start + QUERY_CHUNK)
        probs = torch.exp(_scores(q, k, start, causal, scale) - lse[:, :, part, None])
        delta = (grad[:, :, part] * out[:, :, part]).sum(dim=-1, dtype=lse.dtype, keepdim=True)
        queries, grads = _by_group(q[:, :, part], k), _by_group(grad[:, :, part], v)
        dprobs = _by_head(grads @ v.transpose(-1, -2), q)
        dscores = _by_group((probs * (dprobs.to(lse.dtype) - delta) * scale).to(q.dtype), k)
        dv += _by_group(probs.to(grad.dtype), v).transpose(-1, -2) @ grads
        dq[:, :, part] = _by_head(dscores @ k, q)
        dk += dscores.transpose(-1, -2) @ queries
    return dq, dk, dv


def _scores(q: Tensor, k: Tensor, start: int, causal: bool, scale: float) -> Tensor:
    scores = _by_head(_by_group(q[:, :, start : start + QUERY_CHUNK], k) @ k.transpose(-1, -2), q)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * scale
    if causal:
        first = start + k.size(2) - q.size(2)  # the last query sees the last key
        query = torch.arange(first, first + scores.size(2), device=q.device)
        scores.masked_fill_(torch.arange(k.size(2), device=q.device) > query[:, None], -torch.inf)
    return scores


def _by_group(rows: Tensor, k: Tensor) -> Tensor:
    """[n, heads, queries, x] as [n, kv heads, heads / kv heads * queries, x]: the rows that each kv head serves."""
    groups = k.size(1)
    return rows.reshape(rows.size(0), groups, -1, rows.size(-1)) if rows.size(1) != groups else rows


def _by_head(rows: Tensor, q: Tensor) -> Tensor:
    """The inverse of `_by_group`."""
    heads = q.size(1)
    return rows.reshape(rows.size(0), heads, -1, rows.size(-1)) if rows.size(1) != heads else rows
