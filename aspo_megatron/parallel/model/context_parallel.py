"""Context parallelism: which tokens of a packed batch each rank computes, and how results come together again.

Every span is cut into 2 x cp chunks, and rank r takes chunks r and 2 cp - 1 - r (zigzag). Later tokens attend to more,
so this gives all ranks the same work in each span. Lengths need not be divisible by anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from aspo_megatron.data.packing import Span


@dataclass(frozen=True)
class Chunk:
    """Packed tokens start..stop of `span`, which are this rank's tokens from `local` on."""

    local: int
    start: int
    stop: int
    span: Span


@dataclass(frozen=True)
class ContextSlice:
    """One rank's share of a packed batch.

    `tokens`: [T_local], the packed index of each local token, the same T_local on all ranks; padding has index -1.
    `where`: [T], the place of each packed token when the local tokens of all ranks are laid end to end.
    `ranks`: how many share the batch.
    """

    rank: int
    tokens: Tensor
    chunks: tuple[Chunk, ...]
    where: Tensor
    ranks: int

    def locate(self, packed: Tensor) -> tuple[Tensor, Tensor]:
        """Which of the `packed` indices are this rank's: their positions in `packed`, and their local indices."""
        size = self.tokens.numel()
        places = self.where[packed]
        mine = (places.div(size, rounding_mode="floor") == self.rank).nonzero().squeeze(1)
        return mine, places[mine] - self.rank * size


def local_tokens(spans: Sequence[Span], cp: int, multiple_of: int) -> int:
    """T_local of `context_slice`, if nothing asks for more."""
    return _padded(max(_length(_chunks_of(spans, cp, rank)) for rank in range(cp)), multiple_of)


def context_slice(
    spans: Sequence[Span], cp: int, rank: int, multiple_of: int, at_least: int | None = None
) -> ContextSlice:
    """The share of context-parallel rank `rank`. T_local is a multiple of `multiple_of`, and at least that.

    `at_least`: T_local, where it is to be larger than the batch needs; a multiple, too.
    """
    per_rank = [_chunks_of(spans, cp, other) for other in range(cp)]
    lengths = [_length(chunks) for chunks in per_rank]
    size = max(_padded(max(lengths), multiple_of), at_least or 0)
    where = torch.empty(sum(lengths), dtype=torch.int64)
    for other, chunks in enumerate(per_rank):
        for chunk in chunks:
            place = other * size + chunk.local
            where[chunk.start : chunk.stop] = torch.arange(place, place + chunk.stop - chunk.start)
    tokens = torch.full((size,), -1, dtype=torch.int64)
    for chunk in per_rank[rank]:
        tokens[chunk.local : chunk.local + chunk.stop - chunk.start] = torch.arange(chunk.start, chunk.stop)
    return ContextSlice(rank, tokens, tuple(per_rank[rank]), where, cp)


def _padded(length: int, multiple_of: int) -> int:
    return max(-(-length // multiple_of), 1) * multiple_of


def _length(chunks: Sequence[Chunk]) -> int:
    return sum(chunk.stop - chunk.start for chunk in chunks)


def _chunks_of(spans: Sequence[Span], cp: int, rank: int) -> list[Chunk]:
    chunks: list[Chunk] = []
    local = 0
    for span in spans:
        length = span.stop - span.start
        for part in (rank, 2 * cp - 1 - rank):
            start, stop = (span.start + length * edge // (2 * cp) for edge in (part, part + 1))
            if chunks and chunks[-1].span is span and chunks[-1].stop == start:  # neighbours: without cp, always
                chunks[-1] = replace(chunks[-1], stop=stop)
                local += stop - start
                continue
            if stop > start:
                chunks.append(Chunk(local, start, stop, span))
                local += stop - start
    return chunks


def runs_of(chunks: Sequence[Chunk]) -> list[list[Chunk]]:
    """Chunks grouped so that those of a group attend wholly to the same keys: responses side by side to one prompt."""
    found: list[list[Chunk]] = []
    for chunk in chunks:
        previous = found[-1][-1] if found else None
        if (
            previous is not None
            and previous.span.start == previous.start
            and chunk.span.start == chunk.start
            and (previous.span.prefix_start, previous.span.prefix_stop)
            == (chunk.span.prefix_start, chunk.span.prefix_stop)
        ):
            found[-1].append(chunk)
        else:
            found.append([chunk])
    return found


def spread(values: Sequence[Tensor], positions: Tensor, size: int, group: dist.ProcessGroup) -> tuple[Tensor, ...]:
    """Tensors [size] on every rank of `group`, from each rank's `values` [own] at `positions`. One collective for all.

    For what all ranks of the group go on with in the same way: backward hands each rank the gradient of its values.
    """
    whole: tuple[Tensor, ...] = _Spread.apply(positions, size, group, *values)  # type: ignore[no-untyped-call]
    return whole


class _Spread(torch.autograd.Function):
    """Saves the positions."""

    @staticmethod
    def forward(
        ctx: Any, positions: Tensor, size: int, group: dist.ProcessGroup, *values: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)  # what the loss does not use gets no gradient, not zeros
        ctx.save_for_backward(positions)
        whole = values[0].new_zeros(len(values), size)
        whole.index_copy_(1, positions, torch.stack(values))
        dist.all_reduce(whole, group=group)
        return tuple(row.clone() for row in whole)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        (positions,) = ctx.saved_tensors
        return None, None, None, *(None if grad is None else grad.index_select(0, positions) for grad in grads)
