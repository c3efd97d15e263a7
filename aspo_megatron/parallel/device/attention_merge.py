"""Two attentions of the same queries to different keys, as one: out = sum_i exp(lse_i - lse) out_i."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from aspo_megatron.parallel.device.triton_calls import define_operation, kernels_in

_ROWS = 64
"""Of a query and a head, in one program."""


def merge(out: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor, *, triton: bool) -> None:
    """Put both together into `out` [T, heads, d] and `lse` [heads, T] (fp32, for fp64 outputs fp64), in place.

    Computed in the precision of `lse` and rounded once. Where a log-sum-exp of `more` is infinite, of either sign,
    there were no keys. All are contiguous.

    Args:
        out: of the first attention, in which every query has a key.
        lse: the same.
        more: of the second attention, [T, heads, d].
        more_lse: the same, [heads, T].
        triton: by one kernel.
    """
    if triton:
        torch.ops.aspo_megatron.merge_attention(out, lse, more, more_lse)
        return
    added_lse = more_lse.masked_fill(more_lse.isinf(), -math.inf)
    merged = torch.logaddexp(lse, added_lse)
    kept, added = ((part - merged).exp().t().unsqueeze(-1) for part in (lse, added_lse))
    out.copy_(out * kept + more * added)
    lse.copy_(merged)


def _launch(out: Tensor, lse: Tensor, more: Tensor, more_lse: Tensor) -> None:
    tokens, heads, size = out.shape
    kernels = kernels_in("aspo_megatron.parallel.device.triton_merge", out.device)
    grid = (-(-tokens * heads // _ROWS),)
    kernels.merge[grid](out, lse, more, more_lse, tokens, heads, size, rows=_ROWS, columns=1 << (size - 1).bit_length())


define_operation("merge_attention(Tensor(a!) out, Tensor(b!) lse, Tensor more, Tensor more_lse) -> ()", _launch)
