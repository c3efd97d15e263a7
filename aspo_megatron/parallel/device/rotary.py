"""Queries, keys and values out of a layer's projection: norms of heads and rotary positions as one kernel each way.

In place of about fourteen operations over all queries, whose inputs autograd would keep. Here backward needs the
projection, out of which it computes the norms again, and the rotary table, which all layers share; without norms, the
table alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aspo_megatron.parallel.device.triton_calls import define_operation, kernels_in

_KERNELS = "aspo_megatron.parallel.device.triton_rotary"
_ELEMENTS = 1024
"""Of both halves of heads at a time: 8 of each for each thread of 4 warps."""
_WARPS = 4
_SPAN = 4
"""Tokens of a program of the backward pass, whose sums for the weights of norms are written for all of them once."""


@dataclass(frozen=True)
class HeadNorms:
    """RMS norms over the numbers of each head. `q`, `k`: their weights, [head_dim]."""

    q: Tensor
    k: Tensor
    eps: float


def rotary_table(positions: Tensor, frequencies: Tensor) -> Tensor:
    """Cosines of each token's pairs, then their sines: [T, 1, 1, head_dim] fp32.

    Args:
        positions: [T], of any integral dtype.
        frequencies: [head_dim / 2] fp32.
    """
    angles = torch.outer(positions.to(torch.float32), frequencies)
    return torch.cat((angles.cos(), angles.sin()), dim=-1)[:, None, None, :]


def rotated_heads(
    projection: Tensor, table: Tensor, norms: HeadNorms | None, group: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries [T, groups x `group`, d], keys and values [T, groups, d] of a projection [T, groups, (`group` + 2) x d].

    A group is `group` queries, their key and their value. Queries and keys are contiguous. With norms the projection is
    kept for backward, and the values are a part of it; without, they are a copy, and it is kept no longer.

    Args:
        projection: floating, in its last two dimensions contiguous.
        table: as `rotary_table` gives it, T x d numbers; fp32, or fp64 to compute in it.
        norms: of queries and keys before their rotation.
        group: see there.
    """
    weights = (None, None, 0.0) if norms is None else (norms.q, norms.k, norms.eps)
    heads: tuple[Tensor, Tensor, Tensor] = _RotatedHeads.apply(projection, table, *weights, group)  # type: ignore[no-untyped-call]
    return heads


class _RotatedHeads(torch.autograd.Function):
    """Saves the table, and with norms the projection [T, groups, (group + 2) x d] and their weights."""

    @staticmethod
    def forward(
        ctx: Any, projection: Tensor, table: Tensor, q_weight: Tensor | None, k_weight: Tensor | None, eps: float,
        group: int,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        tokens, groups, width = projection.shape
        size = width // (group + 2)
        q = projection.new_empty(tokens, groups * group, size)
        k = projection.new_empty(tokens, groups, size)
        copied = torch.empty_like(k) if q_weight is None else None
        torch.ops.aspo_megatron.rotate_heads(projection, table, q_weight, k_weight, q, k, copied, eps)
        ctx.save_for_backward(None if q_weight is None else projection, table, q_weight, k_weight)
        ctx.eps = eps
        return q, k, projection[:, :, -size:] if copied is None else copied

    @staticmethod
    def backward(ctx: Any, by_q: Tensor, by_k: Tensor, by_v: Tensor) -> tuple[Tensor | None, ...]:
        projection, table, q_weight, k_weight = ctx.saved_tensors
        by_q, by_k, by_v = (gradient.contiguous() for gradient in (by_q, by_k, by_v))
        tokens, groups, size = by_k.shape
        grad = by_q.new_empty(tokens, groups, by_q.shape[1] // groups * size + 2 * size)
        if q_weight is None:
            torch.ops.aspo_megatron.rotate_heads_back(None, table, None, None, by_q, by_k, by_v, grad, None, 0.0)
            return grad, None, None, None, None, None
        sums = table.new_empty(-(-tokens // _SPAN), 2, size)
        torch.ops.aspo_megatron.rotate_heads_back(
            projection, table, q_weight, k_weight, by_q, by_k, by_v, grad, sums, ctx.eps
        )
        by_weights = sums.sum(dim=0)
        return grad, None, by_weights[0].to(q_weight.dtype), by_weights[1].to(k_weight.dtype), None, None


def _launch(
    projection: Tensor,
    table: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    eps: float,
) -> None:
    tokens, groups, size = k.shape
    if not tokens:
        return
    kernels = kernels_in(_KERNELS, q.device)
    group = q.shape[1] // groups
    kernels.rotate[(tokens,)](
        projection,
        table,
        q_weight,
        k_weight,
        q,
        k,
        v,
        projection.stride(0),
        eps,
        groups,
        group,
        size,
        *_tile(groups * group, size),
        num_warps=_WARPS,
    )


def _launch_back(
    projection: Tensor | None,
    table: Tensor,
    q_weight: Tensor | None,
    k_weight: Tensor | None,
    by_q: Tensor,
    by_k: Tensor,
    by_v: Tensor,
    grad: Tensor,
    sums: Tensor | None,
    eps: float,
) -> None:
    tokens, groups, size = by_k.shape
    if not tokens:
        return
    kernels = kernels_in(_KERNELS, by_q.device)
    group = by_q.shape[1] // groups
    read = grad if projection is None else projection  # a pointer to nothing has no place in a sum
    kernels.rotate_back[(-(-tokens // _SPAN),)](
        read,
        table,
        q_weight,
        k_weight,
        by_q,
        by_k,
        by_v,
        grad,
        sums,
        tokens,
        read.stride(0),
        eps,
        groups,
        group,
        size,
        *_tile(groups * group, size),
        _SPAN,
        num_warps=_WARPS,
    )


def _tile(heads: int, size: int) -> tuple[int, int]:
    """Heads at a time, no more than there are up to a power of 2, and half of a head's numbers up to one."""
    columns = 1 << (size // 2 - 1).bit_length()
    return min(max(_ELEMENTS // columns, 1), 1 << (heads - 1).bit_length()), columns


define_operation(
    "rotate_heads(Tensor projection, Tensor table, Tensor? q_weight, Tensor? k_weight, Tensor(a!) q, Tensor(b!) k, "
    "Tensor(c!)? v, float eps) -> ()",
    _launch,
)
define_operation(
    "rotate_heads_back(Tensor? projection, Tensor table, Tensor? q_weight, Tensor? k_weight, Tensor by_q, Tensor by_k, "
    "Tensor by_v, Tensor(a!) grad, Tensor(b!)? sums, float eps) -> ()",
    _launch_back,
)
