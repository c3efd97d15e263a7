"""Rows of a tensor of tokens, taken so that the gradients of a row that is taken several times are added exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenRows:
    """Which tokens' rows are taken. The last token of a prompt is taken by every response to it, most others once.

    Attributes:
        index: [R], the token of each row.
        repeated: [P], the rows among the R whose token another row has, too.
        owner: [P], which of `shared` that token is.
        shared: [G], the tokens of several rows.
    """

    index: Tensor
    repeated: Tensor
    owner: Tensor
    shared: Tensor

    @classmethod
    def of(cls, index: Tensor, tokens: int) -> TokenRows:
        """Rows `index` of a tensor of `tokens` tokens; on the CPU."""
        several = index.bincount(minlength=tokens) > 1
        repeated = several[index].nonzero().squeeze(1)
        owner = (several.cumsum(0) - 1)[index[repeated]]
        return cls(index, repeated, owner, several.nonzero().squeeze(1))


def take(values: Tensor, rows: TokenRows) -> Tensor:
    """[R, size] of `values` [tokens, size]; a token's gradient is the sum over its rows, in fp32 and rounded once."""
    taken: Tensor = _Take.apply(values, rows)  # type: ignore[no-untyped-call]
    return taken


class _Take(torch.autograd.Function):
    """Saves no tensor of its own."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, rows: TokenRows) -> Tensor:
        ctx.rows, ctx.tokens = rows, len(values)
        return values.index_select(0, rows.index)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        rows: TokenRows = ctx.rows
        total = grad.new_zeros(ctx.tokens, grad.size(1))
        exact = torch.promote_types(grad.dtype, torch.float32)
        if grad.dtype == exact:
            return total.index_add_(0, rows.index, grad), None
        total.index_copy_(0, rows.index, grad)
        # Of tokens with several rows that kept any one of them.
        sums = grad.new_zeros(len(rows.shared), grad.size(1), dtype=exact)
        sums.index_add_(0, rows.owner, grad.index_select(0, rows.repeated).to(exact))
        return total.index_copy_(0, rows.shared, sums.to(grad.dtype)), None
