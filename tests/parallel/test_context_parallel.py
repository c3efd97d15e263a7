"""Which tokens a context-parallel rank computes: every token once, equal work, and a way back."""

from __future__ import annotations

import pytest
import torch

from aspo_megatron.data.packing import Span, pack
from aspo_megatron.parallel.model.context_parallel import context_slice

from .samples import make_groups

SHAPES = [(4, (1, 5, 30)), (1, (1,)), (17, (2, 1, 1, 6)), (2, (4, 4))]


@pytest.mark.parametrize("cp", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("multiple_of", [1, 2, 3])
def test_every_token_is_on_one_rank(cp: int, multiple_of: int) -> None:
    groups = make_groups(SHAPES)
    batch = pack(groups, [[0.0] * len(group) for group in groups])
    slices = [context_slice(batch.spans, cp, rank, multiple_of) for rank in range(cp)]
    laid_out = torch.cat([own.tokens for own in slices])
    assert sorted(laid_out[laid_out >= 0].tolist()) == list(range(batch.num_tokens))
    assert len({len(own.tokens) for own in slices}) == 1
    assert len(slices[0].tokens) % multiple_of == 0
    for own in slices:
        assert torch.equal(laid_out[own.where], torch.arange(batch.num_tokens))
        for chunk in own.chunks:
            length = chunk.stop - chunk.start
            assert own.tokens[chunk.local : chunk.local + length].tolist() == list(range(chunk.start, chunk.stop))
            assert chunk.span.start <= chunk.start < chunk.stop <= chunk.span.stop

    located = [own.locate(batch.predictors) for own in slices]
    assert sorted(torch.cat([mine for mine, _ in located]).tolist()) == list(range(len(batch.predictors)))
    for own, (mine, local) in zip(slices, located, strict=True):
        assert torch.equal(own.tokens[local], batch.predictors[mine])


@pytest.mark.parametrize("cp", [2, 3, 4])
def test_causal_work_is_equal(cp: int) -> None:
    """Token i of a span costs i + 1: a contiguous split of 960 tokens would give the last rank 2 cp - 1 times more."""
    costs = [int((context_slice([Span(0, 960)], cp, rank, 1).tokens + 1).sum()) for rank in range(cp)]
    assert max(costs) == min(costs)


def test_no_tokens() -> None:
    own = context_slice([], 2, 1, multiple_of=3)
    assert own.tokens.tolist() == [-1, -1, -1]
    assert own.chunks == ()
    mine, local = own.locate(torch.empty(0, dtype=torch.int64))
    assert len(mine) == len(local) == 0
