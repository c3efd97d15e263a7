"""Whether a checkpoint is whole: its files as they were written, and in them all tensors that are wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch.distributed as dist

from aspo_megatron.checkpoint.hf_view import HfView
from aspo_megatron.checkpoint.told import shown
from aspo_megatron.checkpoint.torch_dist.manifest import FileEntry, Manifest, check_model, read_manifest
from aspo_megatron.checkpoint.torch_dist.reader import TorchDistReader, check_common
from aspo_megatron.checkpoint.torch_dist.tensor_names import OPTIMIZER, all_keys
from aspo_megatron.checkpoint.torch_dist.verification import verify_files
from aspo_megatron.errors import CheckpointError
from aspo_megatron.models.family import Family
from aspo_megatron.parallel.grid.exchange import from_leader, gather

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
    check_model(folder, manifest, family)
    check_common(folder)
    with TorchDistReader(folder, family) as reader:
        _check_files(folder, reader, manifest.files)
        HfView(reader, family)
        for name in optimizer(folder, manifest) if optimizer is not None else ():
            for key in all_keys(family):
                there, weight = reader.size(f"{OPTIMIZER}.{name}.{key}"), reader.size(key)
                if there != weight:
                    raise CheckpointError(
                        f"{folder}: tensor {OPTIMIZER}.{name}.{key} has size {list(there)}, its weight {list(weight)}"
                    )
    return manifest


def _check_files(folder: Path, reader: TorchDistReader, files: Mapping[str, FileEntry]) -> None:
    """See that every piece is in a file whose checksum is known."""
    for key in reader.keys():  # noqa: SIM118 (not a dict)
        if not files.keys() >= reader.files(key):
            raise CheckpointError(f"{folder}: tensor {shown(key)}: a piece of it is in no file")
