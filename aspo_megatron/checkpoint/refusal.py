"""Whether a checkpoint is whole: its files as they were written, and in them all tensors that are wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch.distributed as dist
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex, TensorStorageMetadata

from aspo_megatron.checkpoint.hf_view import HfView
from aspo_megatron.checkpoint.integrity import FileEntry, Manifest, check_model, read_manifest, verify_files
from aspo_megatron.checkpoint.names import OPTIMIZER, all_keys
from aspo_megatron.checkpoint.piece_reader import PieceReader, check_common
from aspo_megatron.checkpoint.tensors import check_cover
from aspo_megatron.errors import CheckpointError
from aspo_megatron.models.family import Family
from aspo_megatron.parallel.exchange import from_leader, gather

Names = Callable[[Path, Manifest], Sequence[str]]


def refusal(folder: Path, family: Family, optimizer: Names | None = None) -> str | None:
    """Why a checkpoint cannot be used, the same on all ranks, which share the reading. A collective.

    Args:
        folder: the checkpoint.
        family: whose weights must all be in it.
        optimizer: says which of the optimizer's tensors must be there for each weight; may raise a CheckpointError.
    """
    found: tuple[Manifest | None, str | None] = (None, None)
    if dist.get_rank() == 0:
        try:
            found = _whole(folder, family, optimizer), None
        except CheckpointError as error:
            found = None, str(error)
        except Exception as error:  # whatever a damaged file leads to
            found = None, f"{folder}: cannot be read ({error!r})"
    manifest, reason = from_leader(found)
    if manifest is None:
        return reason
    own: str | None = None
    try:
        verify_files(folder, manifest, dist.get_rank(), dist.get_world_size())
    except CheckpointError as error:
        own = str(error)
    return next((reason for reason in gather(own) if reason), None)


def _whole(folder: Path, family: Family, optimizer: Names | None) -> Manifest:
    """The manifest, if nothing is missing. Reads no tensor.

    Raises:
        CheckpointError: says what is missing.
    """
    manifest = read_manifest(folder)
    check_model(folder, manifest, family.hf_config, family.name)
    check_common(folder)
    with PieceReader(folder) as reader:
        _check_index(folder, reader.metadata, manifest.files)
        HfView(reader, family).check()
        for name in optimizer(folder, manifest) if optimizer is not None else ():
            for key in all_keys(family):
                there, weight = reader.size(f"{OPTIMIZER}.{name}.{key}"), reader.size(key)
                if there != weight:
                    raise CheckpointError(
                        f"{folder}: tensor {OPTIMIZER}.{name}.{key} has size {list(there)}, its weight {list(weight)}"
                    )
    return manifest


def _check_index(folder: Path, index: Metadata, files: Mapping[str, FileEntry]) -> None:
    for key, whole in index.state_dict_metadata.items():
        if not isinstance(whole, TensorStorageMetadata):
            continue
        try:
            check_cover(key, whole)
            for chunk in whole.chunks:
                place = index.storage_data[MetadataIndex(key, chunk.offsets)]
                if place.offset < 0 or place.offset + place.length > files[place.relative_path].size:
                    raise CheckpointError(f"tensor {key}: is beyond the end of {place.relative_path}")
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {error}") from error
        except KeyError as error:
            raise CheckpointError(f"{folder}: tensor {key}: a piece of it is in no file") from error
