"""What a rank knows of a micro-batch before its forward pass, and its one copy to a device."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from aspo_megatron.config import ParallelConfig
from aspo_megatron.data.packing import PackedBatch, pack
from aspo_megatron.parallel.device.kernels import Kernels
from aspo_megatron.parallel.grid.topology import Axis, Topology, process_grid
from aspo_megatron.parallel.model.context_parallel import context_slice
from aspo_megatron.parallel.model.micro_batch import MicroBatch, copied

from .layouts import PLATFORM
from .samples import make_groups

SHAPES = [(4, (1, 5, 30)), (1, (1,)), (17, (2, 1, 1, 6)), (2, (4, 4))]


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    with process_grid(ParallelConfig(), PLATFORM, seed=1) as grid:
        yield grid


def packed(shapes: Any = SHAPES) -> PackedBatch:
    groups = make_groups(shapes)
    return pack(groups, [[float(index) for index in range(len(group))] for group in groups])


@pytest.mark.parametrize("cp", [1, 2, 3])
def test_ranks_share_the_batch(topology: Topology, cp: int) -> None:
    """Each scored token is one rank's, with the local token whose hidden state predicts it."""
    batch = packed()
    found: list[int] = []
    for rank in range(cp):
        own = MicroBatch.of(batch, replace(topology, cp=Axis(cp, rank, topology.cp.group)), Kernels(token_multiple=8))
        tokens = context_slice(batch.spans, cp, rank, 8).tokens
        real = tokens >= 0
        assert torch.equal(own.padding, ~real[None])
        assert torch.equal(own.input_ids[real], batch.input_ids[tokens[real]])
        assert torch.equal(own.positions[real], batch.positions[tokens[real]])
        assert torch.equal(tokens[own.predictors.index], batch.predictors[own.mine])
        assert torch.equal(own.scored.targets, batch.targets[own.mine])
        assert torch.equal(own.scored.weights, batch.weights[own.mine])
        found += own.mine.tolist()
    assert sorted(found) == list(range(len(batch.targets)))


def test_sequence_parallel_ranks_have_their_part_of_the_padding(topology: Topology) -> None:
    batch = packed()
    parts = [
        MicroBatch.of(batch, replace(topology, tp=tp, sequence_parallel=True), Kernels(token_multiple=16)).padding
        for tp in (Axis(2, rank, topology.tp.group) for rank in range(2))
    ]
    whole = context_slice(batch.spans, 1, 0, 32).tokens < 0
    assert torch.equal(torch.cat(parts, dim=1), whole[None])


@pytest.mark.parametrize("shapes", [SHAPES, []], ids=["samples", "no sample"])
def test_all_tensors_go_in_one_copy(topology: Topology, shapes: Any) -> None:
    """The CPU's memory stands in for a device's: everything is in one buffer, once, and equal to what it was."""
    micro_batch = MicroBatch.of(packed(shapes), topology, Kernels(token_multiple=4))
    there = copied(micro_batch, torch.device("cpu"))
    before, after = tensors_of(micro_batch), tensors_of(there)
    assert len(before) == len(after) > 15
    for original, copy in zip(before, after, strict=True):
        assert original.dtype == copy.dtype
        assert torch.equal(original, copy)
        assert copy.data_ptr() % copy.itemsize == 0
    assert len({copy.untyped_storage().data_ptr() for copy in after}) == 1
    assert there.scored is not micro_batch.scored
    assert there.scored.targets is there.batch.targets
    assert there.batch.spans == micro_batch.batch.spans


def tensors_of(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if dataclasses.is_dataclass(value):
        value = [getattr(value, field.name) for field in dataclasses.fields(value)]
    return [tensor for part in value for tensor in tensors_of(part)] if isinstance(value, list | tuple) else []


def test_on_a_cpu_nothing_is_copied(topology: Topology) -> None:
    micro_batch = MicroBatch.of(packed(), topology, Kernels(token_multiple=4))
    assert micro_batch.to(torch.device("cpu")) is micro_batch


@pytest.mark.parametrize("tokens", [slice(3, 9), slice(0, 0), torch.tensor([5, 1, 20])], ids=["some", "none", "chosen"])
def test_batch_of_some_tokens(tokens: Any) -> None:
    batch = packed()
    part = batch.of_tokens(tokens)
    assert torch.equal(part.targets, batch.targets[tokens])
    assert torch.equal(part.weights, batch.weights[tokens])
    assert part.cu_seqlens.tolist() == [0, len(part.targets)]
