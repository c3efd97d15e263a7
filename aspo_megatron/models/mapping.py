"""One declarative table per model family: how each Megatron parameter is made of Hugging Face tensors, and back.

A row names a Megatron parameter and its Hugging Face tensors. Its kind says in which order pieces of those tensors
lie along the dim that tensor parallelism splits; the whole Megatron parameter is the concatenation of the pieces,
and the shard of tp rank r is the r-th of tp equal slices of it. Import, export and weight sync walk this one table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

PADDING = -1
"""Source of a piece that holds no Hugging Face rows: the padding of the vocabulary."""


@dataclass(frozen=True)
class ModelShape:
    """The sizes that the tables need. `padded_vocab_size` is a multiple of tp."""

    num_layers: int
    hidden_size: int
    ffn_hidden_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    padded_vocab_size: int
    tied_embeddings: bool


@dataclass(frozen=True)
class Piece:
    """Rows start..stop (along the split dim) of the row's Hugging Face tensor number `source`."""

    source: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of rows."""
        return self.stop - self.start


Layout = Callable[[ModelShape, int], list[Piece]]


@dataclass(frozen=True)
class Row:
    """One Megatron parameter. `{}` in a name stands for the layer's number; `dim` None means not split over tp.

    `copy`: read, but not exported. `te_name`: the name where Transformer Engine fuses a norm into the linear layer that
    follows.
    """

    megatron: str
    hf: tuple[str, ...]
    dim: int | None
    layout: Layout
    te_name: str | None = None
    only_if: Callable[[ModelShape], bool] = lambda shape: True
    copy: bool = False

    @property
    def per_layer(self) -> bool:
        """Whether each layer has this parameter."""
        return "{}" in self.megatron

    def megatron_name(self, layer: int, transformer_engine: bool) -> str:
        """The parameter's name in the model; `layer` is counted within the pipeline stage."""
        return (self.te_name if transformer_engine and self.te_name else self.megatron).format(layer)

    def hf_names(self, layer: int) -> tuple[str, ...]:
        """Names of the Hugging Face tensors; `layer` is counted over the whole model."""
        return tuple(name.format(layer) for name in self.hf)


class TensorSource(Protocol):
    """Where Hugging Face tensors are read from, in slices."""

    def read(self, name: str, dim: int, start: int, stop: int) -> Tensor:
        """Rows start..stop of tensor `name` along `dim`."""
        ...

    def read_whole(self, name: str) -> Tensor:
        """Tensor `name`."""
        ...


def replicated(megatron: str, hf: str, te_name: str | None = None) -> Row:
    """The same on all tp ranks."""
    return Row(megatron, (hf,), None, lambda shape, tp: [], te_name)


def vocab(
    megatron: str, hf: str, only_if: Callable[[ModelShape], bool] = lambda shape: True, copy: bool = False
) -> Row:
    """[vocabulary, hidden], split by vocabulary, padded at the end."""

    def layout(shape: ModelShape, tp: int) -> list[Piece]:
        pieces = [Piece(0, 0, shape.vocab_size), Piece(PADDING, shape.vocab_size, shape.padded_vocab_size)]
        return [piece for piece in pieces if piece.size]

    return Row(megatron, (hf,), 0, layout, only_if=only_if, copy=copy)


def split(megatron: str, hf: str, dim: int, size: Callable[[ModelShape], int]) -> Row:
    """One tensor cut along `dim` (0: column-parallel, 1: row-parallel), where it measures `size`."""
    return Row(megatron, (hf,), dim, lambda shape, tp: [Piece(0, 0, size(shape))])


def qkv(megatron: str, hf: tuple[str, str, str]) -> Row:
    """Query, key and value, interleaved by key-value head: each head's queries, then its key, then its value."""

    def layout(shape: ModelShape, tp: int) -> list[Piece]:
        head, queries = shape.head_dim, shape.num_heads // shape.num_kv_heads * shape.head_dim
        pieces = []
        for group in range(shape.num_kv_heads):
            pieces.append(Piece(0, group * queries, (group + 1) * queries))
            pieces += [Piece(source, group * head, (group + 1) * head) for source in (1, 2)]
        return pieces

    return Row(megatron, hf, 0, layout)


def gate_up(megatron: str, hf: tuple[str, str]) -> Row:
    """Gate and up projection: each tp rank holds its slice of the gate, then its slice of up."""

    def layout(shape: ModelShape, tp: int) -> list[Piece]:
        part = shape.ffn_hidden_size // tp
        return [Piece(source, rank * part, (rank + 1) * part) for rank in range(tp) for source in (0, 1)]

    return Row(megatron, hf, 0, layout)


def import_shard(row: Row, layer: int, source: TensorSource, shape: ModelShape, tp: int, tp_rank: int) -> Tensor:
    """The shard of one tp rank; only that rank's slices are read from `source`."""
    names = row.hf_names(layer)
    if row.dim is None:
        return source.read_whole(names[0])
    pieces = row.layout(shape, tp)
    total = sum(piece.size for piece in pieces)
    first, last = total * tp_rank // tp, total * (tp_rank + 1) // tp
    parts, position, padding = [], 0, 0
    for piece in pieces:
        start, stop = max(first, position), min(last, position + piece.size)
        if start < stop and piece.source == PADDING:
            padding += stop - start
        elif start < stop:
            offset = piece.start - position
            parts.append(source.read(names[piece.source], row.dim, start + offset, stop + offset))
        position += piece.size
    if padding:
        if not parts:  # a rank that holds padding alone still has to know width and dtype
            parts.append(source.read(names[0], row.dim, 0, 0))
        parts.append(parts[0].new_zeros((padding, *parts[0].shape[1:])))
    return torch.cat(parts, dim=row.dim)


def export_shapes(
    row: Row, layer: int, shard: Sequence[int], shape: ModelShape, tp: int
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of what `export_tensors` gives, from the shape of one shard."""
    names = row.hf_names(layer)
    if row.dim is None:
        yield names[0], tuple(shard)
        return
    pieces = row.layout(shape, tp)
    for source, name in enumerate(names):
        size = sum(piece.size for piece in pieces if piece.source == source)
        yield name, tuple(size if dim == row.dim else length for dim, length in enumerate(shard))


def export_tensors(row: Row, layer: int, shards: Sequence[Tensor], shape: ModelShape) -> Iterator[tuple[str, Tensor]]:
    """The Hugging Face tensors of a row, by name, from the shards of all tp ranks in their order."""
    names = row.hf_names(layer)
    if row.dim is None:
        yield names[0], shards[0]
        return
    whole = torch.cat(list(shards), dim=row.dim)
    pieces = row.layout(shape, len(shards))
    cut = whole.split([piece.size for piece in pieces], dim=row.dim)
    for source, name in enumerate(names):
        own = [(piece.start, part) for piece, part in zip(pieces, cut, strict=True) if piece.source == source]
        own.sort(key=lambda entry: entry[0])
        yield name, torch.cat([part for _, part in own], dim=row.dim).contiguous()
