"""Reads tensors in megatron's `torch_dist` format (see `tensors`) by name, without loading more than is asked for."""

from __future__ import annotations

import io
import mmap
import pickle
import struct
from collections import OrderedDict
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import torch
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    TensorStorageMetadata,
)

from aspo_megatron.checkpoint.sidecar import COMMON, INDEX
from aspo_megatron.errors import CheckpointError

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
}
"""What torch.save calls the memory of each precision; newer precisions have no name of this kind."""


class PieceReader:
    """The global tensors of a checkpoint, read by name. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        """Read the index.

        Raises:
            CheckpointError: there is none, or it holds anything but the description of tensors.
        """
        self.metadata = metadata = read_index(folder)
        self._folder = folder
        self._tensors = {
            key: entry
            for key, entry in metadata.state_dict_metadata.items()
            if isinstance(entry, TensorStorageMetadata)
        }
        self._storage = metadata.storage_data
        self._files: dict[str, mmap.mmap] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._files.clear()  # each is unmapped with the last tensor in it

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
        return self._folder / str(self._storage[MetadataIndex(key, first.offsets)].relative_path)

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
            return [self._piece(key, chunk) for chunk in sorted(entry.chunks, key=lambda chunk: tuple(chunk.offsets))]
        whole = torch.empty(entry.size, dtype=entry.properties.dtype)
        for chunk in entry.chunks:
            place = whole
            for dim, (start, length) in enumerate(zip(chunk.offsets, chunk.sizes, strict=True)):
                place = place.narrow(dim, start, length)
            place.copy_(self._piece(key, chunk))
        return [whole]

    def _entry(self, key: str) -> TensorStorageMetadata:
        if key not in self._tensors:
            raise CheckpointError(f"{self._folder}: tensor {key} is missing from the checkpoint")
        return self._tensors[key]

    def _piece(self, key: str, chunk: ChunkStorageMetadata) -> Tensor:
        place = self._storage[MetadataIndex(key, chunk.offsets)]
        path = self._folder / place.relative_path
        try:
            if place.relative_path not in self._files:
                with path.open("rb") as file:  # a private mapping: torch wants memory that could be written to
                    self._files[place.relative_path] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
            tensor = _tensor_in(self._files[place.relative_path], place.offset, place.length)
            if tensor.shape != chunk.sizes:
                raise ValueError(f"its size is {list(tensor.shape)}, {list(chunk.sizes)} in the index")
            return tensor
        except Exception as error:  # a damaged archive may raise nearly anything
            raise CheckpointError(f"{path}: tensor {key}: cannot be read ({error})") from error


def _tensor_in(file: mmap.mmap, start: int, length: int) -> Tensor:
    """The tensor that torch.save has written to a part of a file, without a copy of it.

    torch.save makes a zip archive without compression, of which `data.pkl` describes the tensor and `data/0` holds its
    elements.
    """
    part = _Part(file, start, length)
    with ZipFile(part) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        about = _record(file, start, length, archive.getinfo(name))
        data = _record(file, start, length, archive.getinfo(name.removesuffix(".pkl") + "/0"))
    try:
        dtype, offset, size, stride = _Description(io.BytesIO(file[about.start : about.stop])).load()
    except pickle.UnpicklingError:  # of a precision that is described in another way: 8 bits
        part.seek(0)
        loaded: Tensor = torch.load(io.BytesIO(part.read()), map_location="cpu", weights_only=True)
        return loaded
    elements = torch.frombuffer(file, dtype=dtype, count=len(data) // dtype.itemsize, offset=data.start)
    return elements.as_strided(size, stride, offset)


def _record(file: mmap.mmap, start: int, length: int, told: ZipInfo) -> range:
    """The bytes of a record of the archive that begins at `start`."""
    header = start + told.header_offset  # of 30 bytes, then the name and what fills up to a multiple of 64
    begin = header + 30 + sum(struct.unpack_from("<HH", file, header + 26))
    if told.compress_type != ZIP_STORED or begin + told.file_size > start + length:
        raise BadZipFile("not an archive of torch.save")
    return range(begin, begin + told.file_size)


class _Part(io.RawIOBase):
    """A part of a mapped file, as a file."""

    def __init__(self, file: mmap.mmap, start: int, length: int) -> None:
        self._file, self._start, self._length, self._position = file, start, length, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._length}[whence]
        if self._position < 0:
            raise OSError("seek before the start")
        return self._position

    def read(self, size: int = -1) -> bytes:
        left = max(self._length - self._position, 0)
        begin = self._start + self._position
        data = self._file[begin : begin + (left if size < 0 else min(size, left))]
        self._position += len(data)
        return data


_Layout = tuple[torch.dtype, int, tuple[int, ...], tuple[int, ...]]


class _Description(pickle.Unpickler):
    """Reads what torch.save says of a single tensor; whatever else it says is refused, and nothing of it is run."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._layout
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch" and name in _STORAGES:
            return _STORAGES[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no part of a tensor")

    def persistent_load(self, pid: Any) -> Any:
        return pid

    @staticmethod
    def _layout(storage: Any, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *rest: Any) -> _Layout:
        kind, dtype, key, _, _ = storage
        if (kind, key) != ("storage", "0") or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("it is not a single tensor")
        return dtype, offset, size, stride


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
    path = folder / INDEX
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
    path = folder / COMMON
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path}: cannot be read: {str(error).splitlines()[0]}") from error
