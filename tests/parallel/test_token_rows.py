"""Rows of tokens, some of them taken by many: gradients against fp64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aspo_megatron.parallel.model.token_rows import TokenRows, take

TOKENS, SIZE = 40, 16
INDEX = torch.tensor([7, 8, 9, 7, 20, 7, 0, 39, *[7] * 500, 20, 3])
"""Token 7 is a prompt's last, which predicts the first token of each of many responses."""


def gradients(values: Tensor, index: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """By `take`, and by indexing."""
    values = values.requires_grad_()
    taken, indexed = take(values, TokenRows.of(index, TOKENS)), values[index]
    assert torch.equal(taken, indexed)
    return torch.autograd.grad(taken, values, upstream)[0], torch.autograd.grad(indexed, values, upstream)[0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("index", [INDEX, torch.arange(TOKENS), INDEX[:0]], ids=["many", "each once", "none"])
def test_as_indexing(dtype: torch.dtype, index: Tensor) -> None:
    generator = torch.Generator().manual_seed(0)
    values, upstream = (torch.randn(n, SIZE, generator=generator).to(dtype) for n in (TOKENS, len(index)))
    got, want = gradients(values, index, upstream)
    torch.testing.assert_close(got, want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_in_16_bits_are_rounded_once(dtype: torch.dtype) -> None:
    """Indexing rounds after each of 500 rows, and the errors add up."""
    generator = torch.Generator().manual_seed(0)
    upstream = torch.rand(len(INDEX), SIZE, generator=generator).to(dtype)
    exact = torch.zeros(TOKENS, SIZE, dtype=torch.float64).index_add_(0, INDEX, upstream.double())
    got, indexed = gradients(torch.randn(TOKENS, SIZE, generator=generator).to(dtype), INDEX, upstream)
    error, indexed_error = (((grad.double() - exact).abs() / exact.clamp(min=1e-9)).max() for grad in (got, indexed))
    assert error <= 0.51 * torch.finfo(dtype).eps
    assert indexed_error > 4 * torch.finfo(dtype).eps


def test_rows_of_several() -> None:
    rows = TokenRows.of(torch.tensor([5, 2, 5, 3, 2, 5]), 6)
    assert rows.shared.tolist() == [2, 5]
    assert rows.repeated.tolist() == [0, 1, 2, 4, 5]
    assert rows.owner.tolist() == [1, 0, 1, 0, 1]
