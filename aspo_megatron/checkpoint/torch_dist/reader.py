"""Reads tensors in megatron's `torch_dist` format (see `writer`) by name, without loading more than is asked for.

Such a folder may come from anybody: index and pieces are read as data (`plain_pickle`), not with torch's or megatron's
own readers, which take a pickle's word for what to call.
"""

from __future__ import annotations

import io
import mmap
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
)

from aspo_megatron.checkpoint.checked_json import shown
from aspo_megatron.checkpoint.torch_dist.index_file import MEMORY_OF_A_BYTE, index_memory, parse_index
from aspo_megatron.checkpoint.torch_dist.torch_file import ReadAt, StoredTensor, find_tensor, holds_nothing
from aspo_megatron.checkpoint.torch_dist.writer import check_cover, is_piece_file
from aspo_megatron.errors import CheckpointError
from aspo_megatron.folders import COMMON_FILE, TENSOR_INDEX
from aspo_megatron.foreign_text import one_line
from aspo_megatron.models.family import Family
from aspo_megatron.models.folder_files import refuse_links_out
from aspo_megatron.models.mapping import hf_tensors
from aspo_megatron.reading import read_bytes

_LARGEST_COMMON = 1 << 16


class TorchDistReader:
    """The global tensors of a checkpoint, read by name. Use as a context manager."""

    def __init__(self, folder: Path, family: Family) -> None:
        """Read the index, which must be that of a checkpoint of this family's size.

        Raises:
            CheckpointError: see `read_index`; a file is a link out of the folder.
        """
        refuse_links_out(folder)
        metadata = read_index(folder, hf_tensors(family.rows, family.shape(tp=1)))
        self._folder = folder
        self._tensors: dict[str, TensorStorageMetadata] = dict(metadata.state_dict_metadata)  # type: ignore[arg-type]
        self._storage = metadata.storage_data
        self._mapped: dict[str, mmap.mmap] = {}
        self._opened: dict[str, io.FileIO] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._mapped.clear()  # each is unmapped with the last tensor in it
        for file in self._opened.values():
            file.close()
        self._opened.clear()

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

    def path_of(self, key: str) -> Path:
        """The file that a tensor begins in."""
        first = min(self._entry(key).chunks, key=lambda chunk: tuple(chunk.offsets))
        return self._folder / self._file_of(key, first)

    def files(self, key: str) -> set[str]:
        """Names of the files that a tensor is in."""
        return {self._file_of(key, chunk) for chunk in self._entry(key).chunks}

    def read(self, key: str) -> Tensor:
        """A whole tensor. It may be a view of the file.

        Raises:
            CheckpointError: it is missing or cannot be read.
        """
        parts = self.read_parts(key)
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def read_parts(self, key: str) -> list[Tensor]:
        """A whole tensor as the parts that it is the concatenation of along dim 0: views of the files where possible.

        Raises:
            CheckpointError: it is missing or cannot be read.
        """
        entry = self._entry(key)
        if all(chunk.sizes[1:] == entry.size[1:] for chunk in entry.chunks):
            return [self._view(key, chunk) for chunk in sorted(entry.chunks, key=lambda chunk: tuple(chunk.offsets))]
        pieces = [self._view(key, chunk) for chunk in entry.chunks]  # before there is memory for the whole
        whole = torch.empty(entry.size, dtype=entry.properties.dtype)
        for chunk, piece in zip(entry.chunks, pieces, strict=True):
            _part(whole, chunk.offsets, chunk.sizes).copy_(piece)
        return [whole]

    def fill(self, key: str, target: Tensor, offset: Sequence[int]) -> None:
        """Copy the part of a tensor that begins at `offset` and has the target's size to the target, on any device.

        What of the target is beyond the end of the tensor stays as it is. Files are read, not mapped: one that
        cannot be read is an error then, where a map of it would end the process.

        Raises:
            CheckpointError: it is missing or cannot be read.
        """
        stops = [begin + length for begin, length in zip(offset, target.shape, strict=True)]
        for chunk in self._entry(key).chunks:
            ends = [begin + length for begin, length in zip(chunk.offsets, chunk.sizes, strict=True)]
            first = [max(own, other) for own, other in zip(offset, chunk.offsets, strict=True)]
            sizes = [min(own, other) - begin for own, other, begin in zip(stops, ends, first, strict=True)]
            if any(length <= 0 for length in sizes):
                continue
            rows = range(first[0] - chunk.offsets[0], first[0] - chunk.offsets[0] + sizes[0]) if sizes else range(1)
            piece = self._rows(key, chunk, rows)
            within = [0, *(begin - own for begin, own in zip(first[1:], chunk.offsets[1:], strict=True))][: len(sizes)]
            place = [begin - own for begin, own in zip(first, offset, strict=True)]
            _part(target, place, sizes).copy_(_part(piece, within, sizes))

    def _entry(self, key: str) -> TensorStorageMetadata:
        if key not in self._tensors:
            raise CheckpointError(f"{self._folder}: tensor {key} is missing from the checkpoint")
        return self._tensors[key]

    def _file_of(self, key: str, chunk: ChunkStorageMetadata) -> str:
        return str(self._storage[MetadataIndex(key, chunk.offsets)].relative_path)

    def _view(self, key: str, chunk: ChunkStorageMetadata) -> Tensor:
        """A piece, as a view of its file."""

        def view() -> Tensor:
            name = self._file_of(key, chunk)
            if name not in self._mapped:
                with (self._folder / name).open("rb") as file:  # private: torch wants memory that could be written to
                    self._mapped[name] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            mapped = self._mapped[name]
            found = self._find(key, chunk, lambda start, count: mapped[start : start + count])
            if not found.nbytes:
                return torch.empty(found.size, dtype=found.dtype)
            count = found.nbytes // found.dtype.itemsize
            return torch.frombuffer(mapped, dtype=found.dtype, count=count, offset=found.begin).view(found.size)

        return self._readable(key, chunk, view)

    def _rows(self, key: str, chunk: ChunkStorageMetadata, rows: range) -> Tensor:
        """Rows of a piece (all of it if it has no dimension), in memory of their own."""

        def read() -> Tensor:
            name = self._file_of(key, chunk)
            if name not in self._opened:
                self._opened[name] = io.FileIO(self._folder / name)
            file = self._opened[name]
            found = self._find(key, chunk, lambda start, count: _read_at(file, start, count))
            each = found.nbytes // found.size[0] if found.size else found.nbytes
            content = torch.empty(each * len(rows), dtype=torch.uint8)
            file.seek(found.begin + each * rows.start)
            left = memoryview(content.numpy().data)
            while left and (count := file.readinto(left)):
                left = left[count:]
            if left:
                raise EOFError("the file ends before its end")
            return content.view(found.dtype).view(len(rows), *found.size[1:])[0 if not found.size else slice(None)]

        return self._readable(key, chunk, read)

    def _find(self, key: str, chunk: ChunkStorageMetadata, read_at: ReadAt) -> StoredTensor:
        place = self._storage[MetadataIndex(key, chunk.offsets)]
        found = find_tensor(read_at, place.offset, place.length)
        if found.size != tuple(chunk.sizes) or found.dtype != self.dtype(key):
            told = f"{list(chunk.sizes)} of {self.dtype(key)}"
            raise ValueError(f"it is {list(found.size)} of {found.dtype}, {told} in the index")
        return found

    def _readable(self, key: str, chunk: ChunkStorageMetadata, read: Callable[[], Tensor]) -> Tensor:
        try:
            return read()
        except MemoryError:  # which says nothing of the file
            raise
        except Exception as error:  # a damaged archive may raise nearly anything
            path = self._folder / self._file_of(key, chunk)
            raise CheckpointError(f"{path}: tensor {shown(key)}: cannot be read ({_said(error)})") from error


def _said(error: Exception) -> str:
    return one_line(str(error)[:300] or type(error).__name__)


def _read_at(file: io.FileIO, start: int, count: int) -> bytes:
    file.seek(start)
    return file.read(count)


def _part(tensor: Tensor, offset: Sequence[int], size: Sequence[int]) -> Tensor:
    for dim, (start, length) in enumerate(zip(offset, size, strict=True)):
        tensor = tensor.narrow(dim, start, length)
    return tensor


def read_index(folder: Path, weights: int) -> Metadata:
    """The index of a checkpoint, made anew of what its file says; nothing that this might hold is run.

    Its tensors are whole, and every piece is in a file of the folder. A model of so many `weights` bounds how much it
    may say.

    Raises:
        CheckpointError: there is none, it is damaged, says more, or holds anything but the description of tensors.
    """
    index = _parsed(folder / TENSOR_INDEX, index_memory(weights))
    sizes: dict[str, int | None] = {}
    for key, whole in index.state_dict_metadata.items():
        assert isinstance(whole, TensorStorageMetadata)
        try:
            check_cover(shown(key), whole)
        except CheckpointError as error:
            raise CheckpointError(f"{folder}: {error}") from error
        for chunk in whole.chunks:
            place = index.storage_data.get(MetadataIndex(key, chunk.offsets))
            name = "" if place is None else place.relative_path
            if name not in sizes:
                sizes[name] = _size_of(folder, name)
            size = sizes[name]
            if place is None or size is None:
                raise CheckpointError(f"{folder}: tensor {shown(key)}: a piece of it is in no file")
            if min(place.offset, place.length) < 0 or place.offset + place.length > size:
                raise CheckpointError(f"{folder}: tensor {shown(key)}: is beyond the end of {name}")
    return index


def _parsed(path: Path, most_memory: int) -> Metadata:
    most = most_memory // MEMORY_OF_A_BYTE
    try:
        # A piece has a kilobyte beside its elements, and less than that in the index.
        most = min(most, (1 << 20) + sum(file.stat().st_size for file in path.parent.glob("*.distcp")))
        if path.stat().st_size > most:
            raise CheckpointError(f"{path}: cannot be read: it is larger than an index of these files can be")
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: missing, so this is not a megatron distributed checkpoint") from error
    except OSError as error:
        raise CheckpointError(f"{error.filename}: cannot be read: {error.strerror}") from error
    try:
        return parse_index(read_bytes(path, CheckpointError, most), most_memory)
    except ValueError as error:
        raise CheckpointError(f"{path}: cannot be read: {error}") from error


def _size_of(folder: Path, name: str) -> int | None:
    """Size of a file of tensors; None if there is no such file, or it is none."""
    if not is_piece_file(name):
        return None
    try:
        found = (folder / name).stat()
    except OSError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def check_common(folder: Path) -> None:
    """See that the part of a checkpoint that other readers take besides tensors is empty.

    Raises:
        CheckpointError: it is not, or it cannot be read.
    """
    path = folder / COMMON_FILE
    content = read_bytes(path, CheckpointError, _LARGEST_COMMON)
    try:
        empty = holds_nothing(content)
    except Exception as error:  # a damaged archive may raise nearly anything
        raise CheckpointError(f"{path}: cannot be read: {_said(error)}") from error
    if not empty:
        raise CheckpointError(f"{path}: cannot be read: it is not empty, but this program leaves it empty")
