"""Attention in plain PyTorch, for any device and dtype: where no kernel of PyTorch's takes the tensors."""

from __future__ import annotations

import torch
from torch import Tensor

QUERY_CHUNK = 512
"""Queries whose scores exist at a time."""


def attend_plainly(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of a batch of blocks and its log-sum-exp, as `platform.attend` with heads before tokens.

    q is [n, heads, queries, d], k and v are [n, heads, keys, d]; gives [n, heads, queries, d] and [n, heads, queries]
    in fp32 (fp64 for fp64).
    """
    outs, lses = [], []
    for start in range(0, q.size(2), QUERY_CHUNK):
        scores = _scores(q, k, start, causal, scale)
        lse = torch.logsumexp(scores, dim=-1)
        outs.append(torch.exp(scores - lse[..., None]).to(v.dtype) @ v)
        lses.append(lse)
    return torch.cat(outs, dim=2), torch.cat(lses, dim=2)


def attend_plainly_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, causal: bool, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v in their shapes, as `platform.attend_backward` with heads before tokens."""
    dq, dk, dv = torch.zeros_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for start in range(0, q.size(2), QUERY_CHUNK):
        part = slice(start, start + QUERY_CHUNK)
        probs = torch.exp(_scores(q, k, start, causal, scale) - lse[:, :, part, None])
        delta = (grad[:, :, part] * out[:, :, part]).sum(dim=-1, dtype=lse.dtype, keepdim=True)
        dscores = (probs * ((grad[:, :, part] @ v.transpose(-1, -2)).to(lse.dtype) - delta) * scale).to(q.dtype)
        dv += probs.to(grad.dtype).transpose(-1, -2) @ grad[:, :, part]
        dq[:, :, part] = dscores @ k
        dk += dscores.transpose(-1, -2) @ q[:, :, part]
    return dq, dk, dv


def _scores(q: Tensor, k: Tensor, start: int, causal: bool, scale: float) -> Tensor:
    scores = q[:, :, start : start + QUERY_CHUNK] @ k.transpose(-1, -2)
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32)) * scale
    if causal:
        query = torch.arange(start, start + scores.size(2), device=q.device)
        scores.masked_fill_(torch.arange(k.size(2), device=q.device) > query[:, None], -torch.inf)
    return scores
