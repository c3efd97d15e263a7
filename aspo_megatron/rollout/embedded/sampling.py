"""Which token comes next: by temperature, top-p and top-k, and a uniform number that decides it."""

from __future__ import annotations

import torch
from torch import Tensor

from aspo_megatron.config import SamplingConfig


def sample_tokens(logits: Tensor, uniforms: Tensor, sampling: SamplingConfig) -> tuple[Tensor, Tensor]:
    """One token per row by inverting the cumulative distribution at `uniforms`, and its log-prob.

    Args:
        logits: [rows, vocabulary].
        uniforms: [rows], float64 in [0, 1).
        sampling: temperature, top_p and top_k; temperature 0 takes the likeliest token.

    Returns:
        tokens [rows], int64, and log_softmax(logits / temperature) at them, [rows], fp32, before top-p and top-k.
    """
    logits = logits.float()
    if sampling.temperature == 0:
        tokens = logits.argmax(dim=-1)
        return tokens, torch.log_softmax(logits, dim=-1).gather(1, tokens[:, None])[:, 0]
    log_probs = torch.log_softmax(logits / sampling.temperature, dim=-1)
    probs = log_probs.double().exp()  # fp32 sums over a large vocabulary are off by more than a rare token's share
    if sampling.top_k or sampling.top_p < 1.0:
        probs = _truncate(probs, sampling)
    cumulative = probs.cumsum(dim=-1)
    thresholds = uniforms[:, None] * cumulative[:, -1:]
    tokens = torch.searchsorted(cumulative, thresholds, right=True).clamp(max=logits.size(1) - 1)
    return tokens[:, 0], log_probs.gather(1, tokens)[:, 0]


def _truncate(probs: Tensor, sampling: SamplingConfig) -> Tensor:
    """Zero what top-k and top-p leave out: top-p keeps the fewest likeliest tokens that reach it."""
    ordered, order = probs.sort(dim=-1, descending=True)
    drop = ordered.cumsum(dim=-1) - ordered >= sampling.top_p
    if sampling.top_k:
        drop[:, sampling.top_k :] = True
    return probs.masked_fill(torch.zeros_like(drop).scatter(1, order, drop), 0.0)
