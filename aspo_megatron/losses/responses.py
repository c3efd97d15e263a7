"""Whole responses among packed tokens: which one a token belongs to, and means over them."""

from __future__ import annotations

import torch
from torch import Tensor


def response_of_token(cu_seqlens: Tensor, num_tokens: int) -> Tensor:
    """The response that each token belongs to, [tokens], int64; `cu_seqlens` as in `LossInput`."""
    responses = torch.arange(len(cu_seqlens) - 1, device=cu_seqlens.device)
    return responses.repeat_interleave(cu_seqlens.diff(), output_size=num_tokens)


def response_sum(values: Tensor, mask: Tensor, cu_seqlens: Tensor) -> Tensor:
    """At each token the sum of its response's unmasked `values`, [tokens]."""
    response = response_of_token(cu_seqlens, len(values))
    return values.new_zeros(len(cu_seqlens) - 1).index_add(0, response, values.masked_fill(~mask, 0.0))[response]


def sum_before(values: Tensor, mask: Tensor, cu_seqlens: Tensor) -> Tensor:
    """At each token the sum of the unmasked `values` before it in its response, [tokens], fp64."""
    kept = values.masked_fill(~mask, 0.0).double()
    before = kept.cumsum(0) - kept
    starts = before[cu_seqlens[:-1].long().clamp(max=max(len(values) - 1, 0))] if len(values) else before
    return before - starts[response_of_token(cu_seqlens, len(values))]


def response_mean(values: Tensor, mask: Tensor, cu_seqlens: Tensor) -> Tensor:
    """At each token the mean of its response's unmasked `values`, [tokens]; 0 where there is none."""
    response = response_of_token(cu_seqlens, len(values))
    sums = values.new_zeros(len(cu_seqlens) - 1, 2)
    sums.index_add_(0, response, torch.stack([values.masked_fill(~mask, 0.0), mask.to(values.dtype)], dim=1))
    return (sums[:, 0] / sums[:, 1].clamp(min=1))[response]


def shares(mask: Tensor, cu_seqlens: Tensor) -> Tensor:
    """1 / (unmasked tokens of its response) at each unmasked token, 0 elsewhere, [tokens], fp32.

    A mean over tokens that is weighted so is the mean over responses of their means.
    """
    owner = response_of_token(cu_seqlens, len(mask))
    counts = torch.zeros(len(cu_seqlens) - 1, device=mask.device).index_add(0, owner, mask.float())
    return torch.where(mask, 1.0 / counts.clamp(min=1.0)[owner], 0.0)
