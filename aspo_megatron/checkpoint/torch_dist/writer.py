"""Tensors in megatron's `torch_dist` format, written one at a time.

Such a folder holds a `__<rank>_0.distcp` file for each rank that wrote tensors, which are pieces of global tensors, and
an index of all pieces in `.metadata`. `megatron.core.dist_checkpointing.load` reads it; megatron's own writer, though,
starts helper processes and wants all tensors in memory. Checksums are made while writing.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import xxhash
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

from aspo_megatron.checkpoint.torch_dist.manifest import FileEntry, write_durably
from aspo_megatron.errors import CheckpointError
from aspo_megatron.folders import COMMON_FILE, FORMAT_FILE, TENSOR_INDEX

_MOST_DIMS = 8
_MOST_CORNERS = 2**22
_PIECE_FILE = re.compile(r"__[0-9]{1,9}_[0-9]{1,9}\.distcp")
_ALIGNMENT = 64
"""Of each piece in its file, as that of the elements in a piece: then they can be used where they are."""


@dataclass(frozen=True)
class TensorPiece:
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


def is_piece_file(name: str) -> bool:
    """Whether a file of this name may hold pieces: in the folder of the index, wherever that is."""
    return _PIECE_FILE.fullmatch(name) is not None


class TorchDistWriter:
    """Writes one rank's file. `pieces` and `entry` are what the index and the manifest want of it."""

    def __init__(self, folder: Path, rank: int) -> None:
        """Create the file.

        Raises:
            OSError: it cannot be written.
        """
        self.pieces: list[TensorPiece] = []
        self.name = piece_file(rank)
        self._file = _HashingFile(folder / self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the file; the disk has it then, unless writing has failed."""
        self.close(durable=error is None)

    def close(self, *, durable: bool) -> None:
        """Close the file, which may be closed already; if `durable` the disk has it then."""
        self._file.close(durable=durable)

    @property
    def entry(self) -> FileEntry:
        """Size and checksum of what was written."""
        return FileEntry(self._file.tell(), self._file.digest.hexdigest())

    def write(self, key: str, tensor: Tensor, whole: Sequence[int], offset: Sequence[int]) -> None:
        """Append a piece: the part of global tensor `key`, of size `whole`, that begins at `offset`."""
        self._file.write(bytes(-self._file.tell() % _ALIGNMENT))
        start = self._file.tell()
        tensor = _alone(tensor.detach().cpu().contiguous())
        torch.save(tensor, self._file)  # type: ignore[arg-type]
        length = self._file.tell() - start
        self.pieces.append(
            TensorPiece(key, tensor.dtype, tuple(whole), tuple(offset), tuple(tensor.shape), self.name, start, length)
        )


def _alone(tensor: Tensor) -> Tensor:
    """The same memory as a tensor with a storage of its own: torch.save would write all of a shared one."""
    if tensor.untyped_storage().size() == tensor.nbytes:
        return tensor
    own = torch.from_numpy(tensor.reshape(-1).view(torch.uint8).numpy())
    return own.view(tensor.dtype).view(tensor.shape)


class _HashingFile:
    """A file that is written from its start to its end, with the checksum of it all."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb", buffering=1 << 20)
        self._position = 0
        self.digest = xxhash.xxh3_128()

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
        if self._file.closed:
            return
        try:
            if durable:
                self._file.flush()
                os.fsync(self._file.fileno())
        finally:
            with contextlib.suppress(OSError):  # what could not be written is given up: the first error is on its way
                self._file.close()


@contextmanager
def without_crc() -> Iterator[None]:
    """Spare torch.save the CRC of each tensor: nothing reads it, and the manifest has a checksum of all."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


def write_index(folder: Path, pieces: Iterable[TensorPiece]) -> dict[str, FileEntry]:
    """Write what makes the files of all ranks one checkpoint: durable files, which are returned.

    Raises:
        CheckpointError: pieces of a tensor are missing or there twice, or do not agree on what it is.
        OSError: a file cannot be written.
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
        check_cover(key, whole)
    metadata = Metadata(state_dict_metadata=dict(tensors), storage_data=storage, storage_meta=StorageMeta())
    nothing = io.BytesIO()
    torch.save({}, nothing)
    backend = {"sharded_backend": "torch_dist", "sharded_backend_version": 1}
    common = {"common_backend": "torch", "common_backend_version": 1}
    contents = {
        TENSOR_INDEX: pickle.dumps(metadata),
        COMMON_FILE: nothing.getvalue(),
        FORMAT_FILE: json.dumps(backend | common).encode(),
    }
    return {name: write_durably(folder / name, content) for name, content in contents.items()}


def check_cover(key: str, whole: TensorStorageMetadata) -> None:
    """See that the pieces of a tensor are all of it, and each element is in one.

    Raises:
        CheckpointError: they are not; names the tensor.
    """
    dims = len(whole.size)
    if dims > _MOST_DIMS or any(len(chunk.offsets) != dims or len(chunk.sizes) != dims for chunk in whole.chunks):
        raise CheckpointError(f"tensor {key}: has other dimensions than its pieces, or more than {_MOST_DIMS}")
    covered = sum(chunk.sizes.numel() for chunk in whole.chunks)
    if covered != whole.size.numel():
        raise CheckpointError(f"tensor {key}: {covered} of {whole.size.numel()} elements are present")
    for chunk in whole.chunks:
        spans = zip(chunk.offsets, chunk.sizes, whole.size, strict=True)
        if any(start < 0 or start + length > size for start, length, size in spans):
            raise CheckpointError(f"tensor {key}: a piece at {list(chunk.offsets)} lies outside it")
    filled = [chunk for chunk in whole.chunks if chunk.sizes.numel()]
    if len(filled) << dims > _MOST_CORNERS:
        raise CheckpointError(f"tensor {key}: of {len(filled):,} pieces, which is more than any layout makes")
    if len(filled) > 1 and _corners(filled) != _corners([ChunkStorageMetadata(torch.Size([0] * dims), whole.size)]):
        raise CheckpointError(f"tensor {key}: two pieces have the same elements")


def _corners(boxes: Sequence[ChunkStorageMetadata]) -> dict[tuple[int, ...], int]:
    """How often each point is a corner of a box: +1 for its beginning, with another sign for each end among its sides.

    Boxes that do not overlap make up another box just if all corners but its own cancel. This takes a time in
    proportion to their number, where comparing each with each may take for ever.
    """
    counts: dict[tuple[int, ...], int] = {}
    for box in boxes:
        sides = [((start, 1), (start + length, -1)) for start, length in zip(box.offsets, box.sizes, strict=True)]
        for corner in product(*sides):
            point = tuple(place for place, _ in corner)
            counts[point] = counts.get(point, 0) + prod(sign for _, sign in corner)
    return {point: count for point, count in counts.items() if count}
