"""One declarative table per model family: how each Megatron parameter is made of Hugging Face tensors, and back.

A row names a Megatron parameter and its Hugging Face tensors. Its kind says in which order slices of those tensors
lie along the dim that tensor parallelism splits; the whole Megatron parameter is the concatenation of the slices,
and the shard of tp rank r is the r-th of tp equal parts of it. Import, export, weight sync and the check of a
checkpoint's headers walk this one table, by `each_parameter`.

In names `{layer}` stands for the layer's number and `{expert}` for the expert's. An expert's parameters are split over
expert tensor parallelism (etp) where others are split over tp.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

PADDING = -1
"""Source of a slice that holds no Hugging Face rows: the padding of the vocabulary."""


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
    num_experts: int
    expert_ffn_size: int


@dataclass(frozen=True)
class Slice:
    """Rows start..stop (along the split dim) of the row's Hugging Face tensor number `source`."""

    source: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of rows."""
        return self.stop - self.start


SplitOrder = Callable[[ModelShape, int], list[Slice]]
"""Of a model's sizes and the number of ranks that share a parameter: the slices that it consists of, in order."""

Sizes = tuple[int, ...]


@dataclass(frozen=True)
class ParameterRow:
    """One Megatron parameter and the Hugging Face tensors `hf` that it is made of, whose sizes are `sizes`.

    `dim`: the dim along which tensor parallelism splits it; None means not split. `te_name`: the name where Transformer
    Engine fuses a norm into the linear layer that follows. `tied`: only in models whose embeddings are tied (True), or
    only in those whose embeddings are not (False); None: in both. `copy`: read, but not exported.
    """

    megatron: str
    hf: tuple[str, ...]
    sizes: Callable[[ModelShape], tuple[Sizes, ...]]
    dim: int | None
    order: SplitOrder
    te_name: str | None = None
    tied: bool | None = None
    copy: bool = False

    @property
    def per_layer(self) -> bool:
        """Whether each layer has this parameter."""
        return "{layer}" in self.megatron

    @property
    def per_expert(self) -> bool:
        """Whether each expert of a layer has this parameter."""
        return "{expert}" in self.megatron

    def elements(self, shape: ModelShape) -> int:
        """Elements of the Hugging Face tensors, of one layer and one expert."""
        return sum(math.prod(size) for size in self.sizes(shape))

    def times(self, shape: ModelShape) -> int:
        """How often a model has this parameter."""
        return (shape.num_layers if self.per_layer else 1) * (shape.num_experts if self.per_expert else 1)

    def megatron_name(self, layer: int, expert: int, transformer_engine: bool, grouped: bool) -> str:
        """The parameter's name in the model; `layer` and `expert` count what this rank holds.

        `grouped`: the experts of a layer are the numbered weights of one module (grouped GEMM).
        """
        name = self.te_name if transformer_engine and self.te_name else self.megatron
        if grouped and self.per_expert:
            name = name.replace("local_experts.{expert}.", "") + "{expert}"
        return name.format(layer=layer, expert=expert)

    def hf_names(self, layer: int, expert: int) -> tuple[str, ...]:
        """Names of the Hugging Face tensors; `layer` and `expert` count over the whole model."""
        return tuple(name.format(layer=layer, expert=expert) for name in self.hf)


class TensorSource(Protocol):
    """Where Hugging Face tensors are read from, in slices."""

    def read(self, name: str, dim: int, start: int, stop: int) -> Tensor:
        """Rows start..stop of tensor `name` along `dim`."""
        ...

    def read_whole(self, name: str) -> Tensor:
        """Tensor `name`."""
        ...


def replicated(megatron: str, hf: str, size: Callable[[ModelShape], Sizes], te_name: str | None = None) -> ParameterRow:
    """The same on all tp ranks."""
    return ParameterRow(megatron, (hf,), lambda shape: (size(shape),), None, lambda shape, tp: [], te_name)


def vocab(megatron: str, hf: str, *, tied: bool | None = None, copy: bool = False) -> ParameterRow:
    """[vocabulary, hidden], split by vocabulary, padded at the end."""

    def order(shape: ModelShape, tp: int) -> list[Slice]:
        slices = [Slice(0, 0, shape.vocab_size), Slice(PADDING, shape.vocab_size, shape.padded_vocab_size)]
        return [each for each in slices if each.size]

    def sizes(shape: ModelShape) -> tuple[Sizes, ...]:
        return ((shape.vocab_size, shape.hidden_size),)

    return ParameterRow(megatron, (hf,), sizes, 0, order, tied=tied, copy=copy)


def row_parallel(megatron: str, hf: str, inputs: Callable[[ModelShape], int]) -> ParameterRow:
    """[hidden, inputs], split by its inputs."""
    return ParameterRow(
        megatron,
        (hf,),
        lambda shape: ((shape.hidden_size, inputs(shape)),),
        1,
        lambda shape, tp: [Slice(0, 0, inputs(shape))],
    )


def qkv(megatron: str, hf: tuple[str, str, str], *, bias: bool = False) -> ParameterRow:
    """Query, key and value, interleaved by key-value head: each head's queries, then its key, then its value."""

    def order(shape: ModelShape, tp: int) -> list[Slice]:
        head, queries = shape.head_dim, shape.num_heads // shape.num_kv_heads * shape.head_dim
        slices = []
        for group in range(shape.num_kv_heads):
            slices.append(Slice(0, group * queries, (group + 1) * queries))
            slices += [Slice(source, group * head, (group + 1) * head) for source in (1, 2)]
        return slices

    def sizes(shape: ModelShape) -> tuple[Sizes, ...]:
        heads = (shape.num_heads, shape.num_kv_heads, shape.num_kv_heads)
        inputs = () if bias else (shape.hidden_size,)
        return tuple((count * shape.head_dim, *inputs) for count in heads)

    return ParameterRow(megatron, hf, sizes, 0, order)


def gate_up(megatron: str, hf: tuple[str, str], size: Callable[[ModelShape], int]) -> ParameterRow:
    """Gate and up projection, each of `size` outputs: a rank holds its slice of the gate, then its slice of up."""

    def order(shape: ModelShape, tp: int) -> list[Slice]:
        part = size(shape) // tp
        return [Slice(source, rank * part, (rank + 1) * part) for rank in range(tp) for source in (0, 1)]

    return ParameterRow(megatron, hf, lambda shape: ((size(shape), shape.hidden_size),) * 2, 0, order)


def each_parameter(
    rows: Iterable[ParameterRow], layers: Sequence[int], experts: Sequence[int]
) -> Iterator[tuple[ParameterRow, int, int]]:
    """Every parameter of these layers, and of these experts in each: its row, layer and expert.

    What the whole model has once has layer 0, and what all experts of a layer share has expert 0.
    """
    for row in rows:
        for layer in layers if row.per_layer else (0,):
            for expert in experts if row.per_expert else (0,):
                yield row, layer, expert


def exported(rows: Iterable[ParameterRow]) -> tuple[ParameterRow, ...]:
    """The rows that are not copies of others."""
    return tuple(row for row in rows if not row.copy)


def hf_sizes(rows: Iterable[ParameterRow], shape: ModelShape) -> dict[str, Sizes]:
    """The size of every Hugging Face tensor of a model, by name."""
    return dict(each_hf_size(rows, shape))


def each_hf_size(rows: Iterable[ParameterRow], shape: ModelShape) -> Iterator[tuple[str, Sizes]]:
    """`hf_sizes`, one after the other: a model of absurd sizes has more names than there is memory."""
    for row, layer, expert in each_parameter(exported(rows), range(shape.num_layers), range(shape.num_experts)):
        yield from zip(row.hf_names(layer, expert), row.sizes(shape), strict=True)


def hf_tensors(rows: Iterable[ParameterRow], shape: ModelShape) -> int:
    """How many Hugging Face tensors a model has, without naming them."""
    return sum(row.times(shape) * len(row.hf) for row in exported(rows))


def import_shard(
    row: ParameterRow, names: Sequence[str], source: TensorSource, shape: ModelShape, tp: int, rank: int
) -> Tensor:
    """The shard of one of `tp` ranks, from the tensors `names`; only that rank's part is read from `source`."""
    if row.dim is None:
        return source.read_whole(names[0])
    slices = row.order(shape, tp)
    total = sum(each.size for each in slices)
    first, last = total * rank // tp, total * (rank + 1) // tp
    parts, position, padding = [], 0, 0
    for each in slices:
        start, stop = max(first, position), min(last, position + each.size)
        if start < stop and each.source == PADDING:
            padding += stop - start
        elif start < stop:
            offset = each.start - position
            parts.append(source.read(names[each.source], row.dim, start + offset, stop + offset))
        position += each.size
    if padding:
        if not parts:  # a rank that holds padding alone still has to know width and dtype
            parts.append(source.read(names[0], row.dim, 0, 0))
        parts.append(parts[0].new_zeros((padding, *parts[0].shape[1:])))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=row.dim)


def export_tensors(row: ParameterRow, shards: Sequence[Tensor], shape: ModelShape) -> Iterator[Tensor]:
    """The Hugging Face tensors of a row, in the order of its names, from the shards of all ranks in their order.

    Each has memory of its own; only what is not split is the shard itself.
    """
    if row.dim is None:
        yield shards[0]
        return
    size = shards[0].shape[row.dim]
    parts: list[list[tuple[int, Tensor]]] = [[] for _ in row.hf]
    position = 0
    for each in row.order(shape, len(shards)):
        end = position + each.size
        for number in range(position // size, -(-end // size)) if each.source != PADDING else ():
            first, last = max(position, number * size), min(end, (number + 1) * size)
            part = shards[number].narrow(row.dim, first - number * size, last - first)
            parts[each.source].append((each.start + first - position, part))
        position = end
    for own in parts:
        own.sort(key=lambda entry: entry[0])
        yield torch.cat([part for _, part in own], dim=row.dim).contiguous()
