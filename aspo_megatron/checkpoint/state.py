"""Model and optimizer as pieces of global tensors, out and in, with megatron's distributed checkpointing.

Names and splits are megatron's own (`sharded_state_dict`). Every layer and expert has its own tensors, gate and up are
two, and nothing in a tensor depends on the layout but the padding of the vocabulary: a state that one layout has
written is loaded in any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.mapping import ShardedTensor, ShardedTensorFactory
from megatron.core.dist_checkpointing.optimizer import make_sharded_optimizer_tensor
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException

from aspo_megatron.checkpoint.names import OPTIMIZER, checkpoint_keys
from aspo_megatron.errors import CheckpointError
from aspo_megatron.parallel.chunk import ModelChunk
from aspo_megatron.parallel.exchange import gather
from aspo_megatron.parallel.model import PolicyModel
from aspo_megatron.parallel.optimizer import Optimizer

_SHARDING = {"singleton_local_shards": True, "non_homogeneous_layers": True}

Sizes = tuple[int, ...]


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
        for part in (sharded.build() if isinstance(sharded, ShardedTensorFactory) else [sharded])
    }


def load_model(model: PolicyModel, folder: Path) -> None:
    """Read this rank's weights from a checkpoint of any layout. A collective.

    Raises:
        CheckpointError: a tensor is missing or of another shape.
    """
    _load({str(number): sharded for number, (_, sharded) in enumerate(_sharded_parameters(model))}, folder)


def load_optimizer(model: PolicyModel, optimizer: Optimizer, counters: dict[str, int], folder: Path) -> None:
    """Read this rank's optimizer state from a checkpoint of any layout. A collective.

    Raises:
        CheckpointError: a tensor is missing or of another shape.
    """
    for name in optimizer.state_names() if counters["updates"] else ():
        wholes: dict[Tensor, Tensor] = {}
        wanted = {}
        for number, (parameter, sharded) in enumerate(_sharded_parameters(model)):
            wholes[parameter] = torch.zeros(parameter.shape, dtype=torch.float32, device="cpu")
            wanted[str(number)] = make_sharded_optimizer_tensor(sharded, wholes[parameter], f"{OPTIMIZER}.{name}")
        _load(wanted, folder)
        optimizer.load_states(name, wholes)
    optimizer.load_counters(counters)


def _load(wanted: dict[str, ShardedTensor | ShardedTensorFactory], folder: Path) -> None:
    """Fill the tensors of `wanted`, in place; what one rank cannot read is an error of all."""
    own: str | None = None
    try:
        dist_checkpointing.load(wanted, str(folder))
    except (torch.OutOfMemoryError, MemoryError):  # which says nothing of the checkpoint
        raise
    except (CheckpointException, Exception) as error:  # torch's is no Exception; a damaged file may raise nearly any
        own = _reason(error)
    reason = next((reason for reason in gather(own) if reason), None)
    if reason is not None:
        raise CheckpointError(f"{folder}: cannot be loaded: {reason}")


def _reason(error: BaseException) -> str:
    """What has gone wrong first, without torch's frame around it."""
    if isinstance(error, CheckpointException) and error.failures:
        error = next(iter(error.failures.values()))[0]
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _sharded_parameters(model: PolicyModel) -> Iterator[tuple[Tensor, ShardedTensor | ShardedTensorFactory]]:
    """Each parameter of this rank with its place in the global tensor."""
    for chunk in model.chunks:
        yield from _sharded_parameters_of(chunk)


def _sharded_parameters_of(chunk: ModelChunk) -> Iterator[tuple[Tensor, Any]]:
    held_of = {id(held.parameter): held for held in chunk.held()}
    described = chunk.sharded_state_dict(metadata=dict(_SHARDING))
    for name, parameter in chunk.named_parameters():
        held = held_of[id(parameter)]
        keys = checkpoint_keys(held.row, held.layer, held.expert)
        # Transformer Engine's layers and megatron's own differ in the name of a norm before experts.
        key = keys[0] if len(keys) == 1 else keys[0].removesuffix("_w")
        yield parameter, replace(described[name], key=key)


def _parts(sharded: ShardedTensor | ShardedTensorFactory, *, lasts: bool = True) -> Iterator[Shard]:
    for part in sharded.build() if isinstance(sharded, ShardedTensorFactory) else [sharded]:
        yield Shard(part.key, part.data.detach(), tuple(part.global_shape), tuple(part.global_offset), lasts)
