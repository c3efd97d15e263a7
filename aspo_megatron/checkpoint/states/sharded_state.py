"""Model and optimizer as pieces of global tensors, out and in, in the format of megatron's distributed checkpointing.

Names and splits are megatron's own (`sharded_state_dict`). Every layer and expert has its own tensors, gate and up are
two, and nothing in a tensor depends on the layout but the padding of the vocabulary: a state that one layout has
written is loaded in any other. megatron's own loading is not used: it runs what the pickles of a folder say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.dist_checkpointing.optimizer import make_sharded_optimizer_tensor
from torch import Tensor

from aspo_megatron.checkpoint.torch_dist.reader import TorchDistReader
from aspo_megatron.checkpoint.torch_dist.tensor_names import OPTIMIZER, checkpoint_keys
from aspo_megatron.errors import CheckpointError
from aspo_megatron.parallel.grid.exchange import gather
from aspo_megatron.parallel.model.chunk import ModelChunk
from aspo_megatron.parallel.model.policy import PolicyModel
from aspo_megatron.parallel.update.optimizer import Optimizer

_SHARDING = {"singleton_local_shards": True, "non_homogeneous_layers": True}

Sizes = tuple[int, ...]

T = TypeVar("T")


@dataclass(frozen=True)
class Shard:
    """A tensor that this rank has to write: the part of global tensor `key`, of size `whole`, at `offset`.

    `lasts`: model or optimizer hold its memory; else it was made for this.
    """

    key: str
    tensor: Tensor
    whole: tuple[int, ...]
    offset: tuple[int, ...]
    lasts: bool = True


def model_shards(model: PolicyModel) -> Iterator[Shard]:
    """The weights that this rank writes; those that several ranks hold alike are written by one of them."""
    for _, sharded in _sharded_parameters(model):
        if not any(sharded.replica_id):
            yield from _parts(sharded)


def optimizer_shards(model: PolicyModel, optimizer: Optimizer) -> Iterator[Shard]:
    """The optimizer state that this rank writes. A collective: all ranks must draw the whole iterator.

    Where the ranks split the state, a tensor is gathered as it is drawn: let go of it before the next.
    """
    sharded_of = {id(parameter): sharded for parameter, sharded in _sharded_parameters(model)}
    for parameter, name, value in optimizer.states():
        sharded = sharded_of[id(parameter)]
        *place, replica = sharded.replica_id
        if not (value is None or any(place) or (replica and not optimizer.splits_state)):
            described = make_sharded_optimizer_tensor(sharded, value, f"{OPTIMIZER}.{name}")
            yield from _parts(described, lasts=not optimizer.splits_state)
            del described
        del value  # the next one is made before this name is given to it


def wanted_weights(model: PolicyModel) -> dict[str, Sizes]:
    """The global tensors that `load_model` will look for on this rank, with their sizes."""
    return {
        part.key: tuple(part.global_shape)
        for _, sharded in _sharded_parameters(model)
        for part in _sharded_parts(sharded)
    }


def load_model(model: PolicyModel, folder: Path) -> None:
    """Read this rank's weights from a checkpoint of any layout. A collective.

    Raises:
        CheckpointError: a tensor is missing or of another shape.
    """
    with _together(folder, lambda: TorchDistReader(folder, model.family)) as reader:
        _together(folder, lambda: _fill(reader, [sharded for _, sharded in _sharded_parameters(model)]))


def load_optimizer(model: PolicyModel, optimizer: Optimizer, counters: dict[str, int], folder: Path) -> None:
    """Read this rank's optimizer state from a checkpoint of any layout. A collective.

    Raises:
        CheckpointError: a tensor is missing or of another shape.
    """
    if counters["updates"]:
        with _together(folder, lambda: TorchDistReader(folder, model.family)) as reader:
            for name in optimizer.state_names():
                _load_states(model, optimizer, name, reader, folder)
    optimizer.load_counters(counters)


def _load_states(model: PolicyModel, optimizer: Optimizer, name: str, reader: TorchDistReader, folder: Path) -> None:
    wholes: dict[Tensor, Tensor] = {}
    wanted = []
    for parameter, sharded in _sharded_parameters(model):
        wholes[parameter] = torch.zeros(parameter.shape, dtype=torch.float32, device="cpu")
        wanted.append(make_sharded_optimizer_tensor(sharded, wholes[parameter], f"{OPTIMIZER}.{name}"))
    _together(folder, lambda: _fill(reader, wanted))
    optimizer.load_states(name, wholes)


def _together(folder: Path, read: Callable[[], T]) -> T:
    """What `read` gives; what one rank cannot read is an error of all. A collective."""
    result: list[T] = []
    own: str | None = None
    try:
        result.append(read())
    except (torch.OutOfMemoryError, MemoryError):  # which says nothing of the checkpoint
        raise
    except Exception as error:  # a damaged file may raise nearly any
        own = next(iter(str(error).splitlines()), "") or type(error).__name__
    reason = next((reason for reason in gather(own) if reason), None)
    if reason is not None:
        raise CheckpointError(f"{folder}: cannot be loaded: {reason}")
    return result[0]


def _fill(reader: TorchDistReader, wanted: Iterable[ShardedTensor | ShardedTensorFactory]) -> None:
    """Read the tensors of `wanted`, in place.

    Raises:
        CheckpointError: one is missing, of another shape, or cannot be read.
    """
    for part in (part for sharded in wanted for part in _sharded_parts(sharded)):
        there, whole = reader.size(part.key), tuple(part.global_shape)
        padded = part.allow_shape_mismatch  # a vocabulary: what is beyond its end is zero
        if there != whole and not (padded and there[1:] == whole[1:]):
            raise CheckpointError(f"tensor {part.key} has size {list(there)}, expected {list(whole)}")
        if not reader.dtype(part.key).is_floating_point:
            raise CheckpointError(
                f"tensor {part.key} has dtype {reader.dtype(part.key)}, expected floating-point numbers"
            )
        target = part.data.detach()
        if padded:
            target.zero_()
        reader.fill(part.key, target, part.global_offset)


def _sharded_parameters(model: PolicyModel) -> Iterator[tuple[Tensor, ShardedTensor | ShardedTensorFactory]]:
    """Each parameter of this rank with its place in the global tensor."""
    for chunk in model.chunks:
        yield from _sharded_parameters_of(chunk)


def _sharded_parameters_of(chunk: ModelChunk) -> Iterator[tuple[Tensor, Any]]:
    local = {id(each.parameter): each for each in chunk.local_parameters()}
    described = chunk.sharded_state_dict(metadata=dict(_SHARDING))
    for name, parameter in chunk.named_parameters():
        own = local[id(parameter)]
        keys = checkpoint_keys(own.row, own.layer, own.expert)
        # Transformer Engine's layers and megatron's own differ in the name of a norm before experts.
        key = keys[0] if len(keys) == 1 else keys[0].removesuffix("_w")
        yield parameter, replace(described[name], key=key)


def _parts(sharded: ShardedTensor | ShardedTensorFactory, *, lasts: bool = True) -> Iterator[Shard]:
    for part in _sharded_parts(sharded):
        yield Shard(part.key, part.data.detach(), tuple(part.global_shape), tuple(part.global_offset), lasts)


def _sharded_parts(sharded: ShardedTensor | ShardedTensorFactory) -> list[ShardedTensor]:
    """The global tensors that a parameter is a part of: itself, or gate and up, which it holds one after the other."""
    parts: list[ShardedTensor] = sharded.build() if isinstance(sharded, ShardedTensorFactory) else [sharded]
    return parts
