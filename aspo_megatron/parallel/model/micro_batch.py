"""A micro-batch as one rank computes it: all that is known before its forward pass, made on the CPU.

A GPU works on what the host has asked for while the host asks for more. It stands still where the host must wait for
it, or for a copy from memory that is not page-locked. So what a forward and backward pass needs is made here, before,
and goes to the device in one copy, which nobody waits for.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from aspo_megatron.data.packing import PackedBatch
from aspo_megatron.parallel.device.kernels import Kernels
from aspo_megatron.parallel.grid.topology import Topology
from aspo_megatron.parallel.model.attention import SpanAttentionParams, plan_attention
from aspo_megatron.parallel.model.context_parallel import context_slice, local_tokens
from aspo_megatron.parallel.model.token_rows import TokenRows

_ALIGNMENT = 256
"""Bytes: where a tensor begins in the buffer, as those that CUDA's allocator gives do in memory."""


@dataclass(frozen=True)
class MicroBatch:
    """A packed batch and this rank's share of it.

    Attributes:
        batch: the whole of it, which a loss sees.
        scored: this context-parallel rank's part of the scored tokens: the batch itself if there is one such rank.
        mine: [own scored tokens], which of the R scored tokens these are.
        predictors: the local tokens whose hidden states predict them.
        input_ids: [T_local], of this rank's tokens; padding may be any token, as nothing attends to it.
        positions: [T_local].
        padding: [1, T_local (over tp under sequence parallelism)], True where there is no token: experts' load leaves
            it out.
        attention: which tokens attend to which, for all layers.
    """

    batch: PackedBatch
    scored: PackedBatch
    mine: Tensor
    predictors: TokenRows
    input_ids: Tensor
    positions: Tensor
    padding: Tensor
    attention: SpanAttentionParams

    @classmethod
    def of(cls, batch: PackedBatch, topology: Topology, kernels: Kernels, at_least: int | None = None) -> MicroBatch:
        """This rank's share of `batch`, which is on the CPU, for a model with these kernels.

        `at_least`: tokens of each rank, where other replicas need more than this one (`local_size`).
        """
        multiple = _multiple(topology, kernels)
        own = context_slice(batch.spans, topology.cp.size, topology.cp.rank, multiple, at_least)
        mine, local = own.locate(batch.predictors)
        tokens = own.tokens.clamp(min=0)
        padding = own.tokens < 0
        if topology.sequence_parallel:
            padding = padding.chunk(topology.tp.size)[topology.tp.rank]
        return cls(
            batch=batch,
            scored=batch if topology.cp.size == 1 else batch.of_tokens(mine),
            mine=mine,
            predictors=TokenRows.of(local, len(tokens)),
            input_ids=batch.input_ids[tokens] if batch.num_tokens else torch.zeros_like(tokens),
            positions=batch.positions[tokens] if batch.num_tokens else torch.zeros_like(tokens),
            padding=padding[None],
            attention=plan_attention(own, kernels),
        )

    def with_batch(self, batch: PackedBatch) -> MicroBatch:
        """The same tokens with other values: `batch`, on the CPU."""
        scored = batch if self.scored is self.batch else batch.of_tokens(self.mine)
        return replace(self, batch=batch, scored=scored)

    def to(self, device: torch.device) -> MicroBatch:
        """The same on `device`, by one copy that the host does not wait for."""
        return copied(self, device) if device.type != "cpu" else self


def local_size(batch: PackedBatch, topology: Topology, kernels: Kernels) -> int:
    """Tokens of each rank in the micro-batch of `batch`."""
    return local_tokens(batch.spans, topology.cp.size, _multiple(topology, kernels))


def _multiple(topology: Topology, kernels: Kernels) -> int:
    return kernels.token_multiple * (topology.tp.size if topology.sequence_parallel else 1)


T = TypeVar("T")


def copied(value: T, device: torch.device) -> T:
    """`value`, made of dataclasses, lists and tuples, with its CPU tensors on `device`: one copy for all of them."""
    originals = {id(tensor): tensor for tensor in _tensors_in(value)}
    bounds, size = [], 0
    for tensor in originals.values():
        bounds.append((size, size + tensor.nbytes))
        size += -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT
    # PyTorch does not give page-locked memory to anybody else before a copy from it is done.
    host = torch.empty(size, dtype=torch.uint8, pin_memory=True)
    for tensor, (start, stop) in zip(originals.values(), bounds, strict=True):
        host[start:stop].view(tensor.dtype).copy_(tensor.flatten())
    there = host.to(device, non_blocking=True)
    copies = {
        key: there[start:stop].view(tensor.dtype).view(tensor.shape)
        for (key, tensor), (start, stop) in zip(originals.items(), bounds, strict=True)
    }
    moved: T = _with_tensors(value, copies)
    return moved


def _tensors_in(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if is_dataclass(value):
        value = [getattr(value, field.name) for field in fields(value)]
    return [tensor for part in value for tensor in _tensors_in(part)] if isinstance(value, list | tuple) else []


def _with_tensors(value: Any, copies: dict[int, Tensor]) -> Any:
    """`value` with other tensors, by the identity of those that it has."""
    if isinstance(value, Tensor):
        return copies[id(value)]
    if is_dataclass(value) and not isinstance(value, type):
        parts = {field.name: getattr(value, field.name) for field in fields(value) if field.init}
        return replace(value, **{name: _with_tensors(part, copies) for name, part in parts.items()})
    if isinstance(value, list | tuple):
        return type(value)(_with_tensors(part, copies) for part in value)
    return value
