"""Tensors in megatron's `torch_dist` format, written and read one at a time.

Such a folder holds a `__<rank>_0.distcp` file for each rank that wrote tensors, which are pieces of global tensors, and
an index of all pieces in `.metadata`. `megatron.core.dist_checkpointing.load` reads it; megatron's own writer, though,
starts helper processes and wants all tensors in memory. Checksums are made while writing.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import torch
from torch import Tensor
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from aspo_megatron.checkpoint.integrity import FileEntry
from aspo_megatron.errors import CheckpointError

_INDEX = ".metadata"


@dataclass(frozen=True)
class Piece:
    """A piece of a global tensor: what it is called there, where it begins in it, and where its bytes are."""

    key: str
    dtype: torch.dtype
    whole: tuple[int, ...]
    offset: tuple[int, ...]
    size: tuple[int, ...]
    file: str
    start: int
    length: int


def piece_file(rank: int) -> str:
    """Name of the file that a rank writes."""
    return f"__{rank}_0.distcp"


class PieceWriter:
    """Writes one rank's file. `pieces` and `entry` are what the index and the manifest want of it."""

    def __init__(self, folder: Path, rank: int) -> None:
        """Create the file.

        Raises:
            OSError: it cannot be written.
        """
        self.pieces: list[Piece] = []
        self.name = piece_file(rank)
        self._file = _HashingFile(folder / self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file; the disk has it then, unless writing has failed."""
        self._file.close(durable=error is None)

    @property
    def entry(self) -> FileEntry:
        """Size and checksum of what was written."""
        return FileEntry(self._file.tell(), self._file.digest.hexdigest())

    def write(self, key: str, tensor: Tensor, whole: Sequence[int], offset: Sequence[int]) -> None:
        """Append a piece: the part of global tensor `key`, of size `whole`, that begins at `offset`."""
        start = self._file.tell()
        tensor = tensor.detach().cpu().contiguous()
        if tensor.untyped_storage().size() != tensor.nbytes:
            tensor = tensor.clone()
        torch.save(tensor, self._file)  # type: ignore[arg-type]
        length = self._file.tell() - start
        self.pieces.append(
            Piece(key, tensor.dtype, tuple(whole), tuple(offset), tuple(tensor.shape), self.name, start, length)
        )


class _HashingFile:
    """A file that is written from its start to its end, with the SHA-256 of it all."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=1 << 20)
        self._position = 0
        self.digest = hashlib.sha256()

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self.digest.update(data)
        self._file.write(data)
        self._position += size
        return size

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        self._file.flush()

    def close(self, *, durable: bool) -> None:
        if durable:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            return
        try:
            self._file.close()
        except OSError:  # what could not be written is given up; the first error is on its way
            os.close(self._file.fileno())


def write_index(folder: Path, pieces: Iterable[Piece]) -> None:
    """Write what makes the files of all ranks one checkpoint.

    Raises:
        CheckpointError: pieces of a tensor are missing or there twice, or do not agree on what it is.
    """
    tensors: dict[str, TensorStorageMetadata] = {}
    storage: dict[MetadataIndex, _StorageInfo] = {}
    for piece in pieces:
        if piece.key not in tensors:
            tensors[piece.key] = TensorStorageMetadata(TensorProperties(piece.dtype), torch.Size(piece.whole), [])
        whole = tensors[piece.key]
        index = MetadataIndex(piece.key, piece.offset, len(whole.chunks))
        if index in storage or whole.properties.dtype != piece.dtype or tuple(whole.size) != piece.whole:
            raise CheckpointError(f"tensor {piece.key}: two pieces at {piece.offset}, or of different kinds")
        whole.chunks.append(ChunkStorageMetadata(torch.Size(piece.offset), torch.Size(piece.size)))
        storage[index] = _StorageInfo(piece.file, piece.start, piece.length)
    for key, whole in tensors.items():
        covered = sum(chunk.sizes.numel() for chunk in whole.chunks)
        if covered != whole.size.numel():
            raise CheckpointError(f"tensor {key}: {covered} of {whole.size.numel()} elements are there")
    metadata = Metadata(state_dict_metadata=dict(tensors), storage_data=storage, storage_meta=StorageMeta())
    (folder / _INDEX).write_bytes(pickle.dumps(metadata))
    torch.save({}, folder / "common.pt")
    backend = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
    common = {"common_backend": "torch", "common_backend_version": 1}
    (folder / "metadata.json").write_text(json.dumps(backend | common))


class PieceReader:
    """The global tensors of a checkpoint, read by name. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        """Read the index.

        Raises:
            CheckpointError: there is none, or it holds anything but the description of tensors.
        """
        metadata = read_index(folder)
        self._folder = folder
        self._tensors = {
            key: entry
            for key, entry in metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
        }
        self._storage = metadata.storage_data
        self._files: dict[str, IO[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for file in self._files.values():
            file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._tensors

    def keys(self) -> list[str]:
        """Names of all tensors."""
        return list(self._tensors)

    def dtype(self, key: str) -> torch.dtype:
        """Precision of a tensor."""
        return self._entry(key).properties.dtype

    def size(self, key: str) -> tuple[int, ...]:
        """Size of a whole tensor."""
        return tuple(self._entry(key).size)

    def read(self, key: str) -> Tensor:
        """A whole tensor.

        Raises:
            CheckpointError: it is missing or cannot be read.
        """
        entry = self._entry(key)
        if len(entry.chunks) == 1:
            return self._piece(key, entry.chunks[0])
        whole = torch.empty(entry.size, dtype=entry.properties.dtype)
        for chunk in entry.chunks:
            place = whole
            for dim, (start, length) in enumerate(zip(chunk.offsets, chunk.sizes, strict=True)):
                place = place.narrow(dim, start, length)
            place.copy_(self._piece(key, chunk))
        return whole

    def _entry(self, key: str) -> TensorStorageMetadata:
        if key not in self._tensors:
            raise CheckpointError(f"{self._folder}: tensor {key} is missing from the checkpoint")
        return self._tensors[key]

    def _piece(self, key: str, chunk: ChunkStorageMetadata) -> Tensor:
        place = self._storage[MetadataIndex(key, chunk.offsets)]
        try:
            if place.relative_path not in self._files:
                self._files[place.relative_path] = (self._folder / place.relative_path).open("rb")
            file = self._files[place.relative_path]
            file.seek(place.offset)
            tensor: Tensor = torch.load(io.BytesIO(file.read(place.length)), map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, pickle.UnpicklingError) as error:
            raise CheckpointError(f"{self._folder / place.relative_path}: tensor {key}: {error}") from error
        return tensor


_HARMLESS = {
    "collections": {"OrderedDict"},
    "copyreg": {"_reconstructor"},
    "builtins": {"object", "set", "frozenset"},
    "pathlib": {"PosixPath", "PurePosixPath", "Path"},
    "torch": {"Size", "device", *(name for name, value in vars(torch).items() if isinstance(value, torch.dtype))},
    "torch.serialization": {"_get_layout"},
    "torch._utils": {"_rebuild_tensor_v2"},
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.distributed.checkpoint.metadata": {
        "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
        "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.planner": {"SavePlan", "TensorWriteData", "WriteItem", "WriteItemType"},
}  # fmt: skip
"""What an index may be made of: descriptions of tensors, nothing that acts."""


class _IndexReader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if name not in _HARMLESS.get(module, ()):
            raise pickle.UnpicklingError(f"it names {module}.{name}, which describes no tensor")
        return super().find_class(module, name)


def read_index(folder: Path) -> Metadata:
    """The index of a checkpoint, read without running anything that it might hold.

    Raises:
        CheckpointError: there is none, it is damaged, or it holds anything but the description of tensors.
    """
    path = folder / _INDEX
    try:
        with path.open("rb") as file:
            metadata = _IndexReader(file).load()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing, so this is not a megatron distributed checkpoint") from error
    except Exception as error:  # a damaged pickle may raise nearly anything
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    if not isinstance(metadata, Metadata):
        raise CheckpointError(f"{path}: is not the index of a distributed checkpoint")
    return metadata


def check_common(folder: Path) -> None:
    """See that the part of a checkpoint that megatron reads besides tensors holds nothing that acts.

    Raises:
        CheckpointError: it does, or it cannot be read.
    """
    path = folder / "common.pt"
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
