"""Reads where torch.save has put the elements of a tensor, without loading anything.

torch.save makes a zip archive without compression, of which `data.pkl` describes the tensor and `data/0` holds its
elements. Whatever else an archive says is refused, and no more of it is read than such an archive has.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from zipfile import ZIP_STORED, BadZipFile, ZipFile, ZipInfo

import torch

from aspo_megatron.checkpoint.torch_dist.plain_pickle import PERSISTENT, Made, Name, Pairs, read_pickle

ReadAt = Callable[[int, int], bytes]
"""Reads bytes of a file: from where, and how many; fewer at its end."""

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
"""What torch.save calls the memory of each precision; newer precisions have no name of this kind."""

DTYPES = {name: value for name, value in vars(torch).items() if isinstance(value, torch.dtype)}
"""Precisions by their names in torch."""

_TYPED, _UNTYPED = Name("torch._utils", "_rebuild_tensor_v2"), Name("torch._utils", "_rebuild_tensor_v3")
_NAMES = {
    "torch._utils": {_TYPED.name, _UNTYPED.name},
    "collections": {"OrderedDict"},
    "torch.storage": {"UntypedStorage"},
    "torch": {*_STORAGES, *DTYPES},
}

_MOST_AT_ONCE = 1 << 17
"""Bytes that are read of an archive's directory, or of what describes a tensor: both have hundreds."""

_MOST_MADE = 1 << 20
"""Bytes of memory that what describes a tensor may take."""


@dataclass(frozen=True)
class StoredTensor:
    """A tensor whose elements lie in their order from the byte `begin` of a file on."""

    dtype: torch.dtype
    size: tuple[int, ...]
    begin: int
    nbytes: int


def find_tensor(read_at: ReadAt, start: int, length: int) -> StoredTensor:
    """The tensor that torch.save has written to a part of a file.

    Raises:
        ValueError, BadZipFile, and whatever zipfile raises: there is no such tensor, or more than that.
    """
    archive = _Archive(read_at, start, length)
    dtype, size, count = _described(read_pickle(archive.content("data.pkl"), _NAMES, _MOST_MADE))
    elements = archive.place("data/0")
    if archive.content("byteorder", b"little") != b"little":
        raise ValueError("its bytes are in another order")
    if len(elements) != count * dtype.itemsize:
        raise ValueError(f"{len(elements)} bytes hold no {count} elements of {dtype}")
    return StoredTensor(dtype, size, elements.start, len(elements))


def holds_nothing(content: bytes) -> bool:
    """Whether a file of torch.save holds an empty mapping.

    Raises:
        See `find_tensor`.
    """
    archive = _Archive(lambda start, count: content[start : start + count], 0, len(content))
    told = read_pickle(archive.content("data.pkl"), {}, _MOST_MADE)
    return type(told) is Pairs and not told


class _Archive:
    """The records of an archive that lies in a part of a file."""

    def __init__(self, read_at: ReadAt, start: int, length: int) -> None:
        self._read_at, self._start, self._length = read_at, start, length
        with ZipFile(_Part(read_at, start, length)) as archive:
            self._records = {told.filename: told for told in archive.infolist()}
        (name,) = (name for name in self._records if name.endswith("/data.pkl"))
        self._folder = name.removesuffix("data.pkl")

    def place(self, name: str) -> range:
        """The bytes of a record, of the file."""
        told: ZipInfo = self._records[self._folder + name]
        header = self._start + told.header_offset  # of 30 bytes, then the name and what fills up to a multiple of 64
        begin = header + 30 + sum(struct.unpack("<HH", self._read_at(header + 26, 4)))
        stored = told.compress_type == ZIP_STORED and told.compress_size == told.file_size
        if not stored or header < self._start or begin + told.file_size > self._start + self._length:
            raise BadZipFile("not an archive of torch.save")
        return range(begin, begin + told.file_size)

    def content(self, name: str, otherwise: bytes | None = None) -> bytes:
        """The content of a record that is small; `otherwise` if there is none."""
        if otherwise is not None and self._folder + name not in self._records:
            return otherwise
        place = self.place(name)
        if len(place) > _MOST_AT_ONCE:
            raise BadZipFile(f"{name} is larger than torch.save writes it")
        return self._read_at(place.start, len(place))


class _Part(io.RawIOBase):
    """A part of a file, as a file of which little is read."""

    def __init__(self, read_at: ReadAt, start: int, length: int) -> None:
        self._read_at, self._start, self._length, self._position = read_at, start, length, 0

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
        count = left if size < 0 else min(size, left)
        if count > _MOST_AT_ONCE:
            raise BadZipFile("its directory is larger than torch.save writes it")
        data = self._read_at(self._start + self._position, count)
        self._position += len(data)
        return data


def _described(told: Any) -> tuple[torch.dtype, tuple[int, ...], int]:
    """Precision, size and number of elements of what `data.pkl` describes, which must be one whole tensor."""
    if type(told) is not Made or told.of not in (_TYPED, _UNTYPED) or len(told.args) < 6 or told.state is not None:
        raise ValueError("it is no tensor")
    storage, offset, size, stride, _, _, *more = told.args
    if len(more) != (told.of == _UNTYPED):  # what torch does to the elements as it loads them, such as turn signs
        raise ValueError("it is not a tensor as its elements are")
    if type(storage) is not Made or storage.of != PERSISTENT or type(storage.args[0]) is not tuple:
        raise ValueError("it is no tensor")
    kind, memory, key, _, _ = storage.args[0]
    named, dtypes = (memory, _STORAGES) if told.of == _TYPED else (more[0], DTYPES)
    dtype = dtypes.get(named.name) if type(named) is Name and named.module == "torch" else None
    if (kind, key) != ("storage", "0") or dtype is None or offset != 0:
        raise ValueError("it is not a single tensor")
    sizes = whole_numbers(size)
    count = 1
    for length, step in reversed(list(zip(sizes, whole_numbers(stride), strict=True))):
        if length > 1 and step != count and 0 not in sizes:
            raise ValueError("its elements are not in their order")
        count *= length
    return dtype, sizes, count


def whole_numbers(told: Any) -> tuple[int, ...]:
    """A tensor's size, or a place in it.

    Raises:
        ValueError: it is not.
    """
    if type(told) is not tuple or len(told) > 16 or any(type(each) is not int or each < 0 for each in told):
        raise ValueError("a size or a place that is none")
    count = 1
    for each in told:
        count *= max(each, 1)
    if count > 1 << 62:
        raise ValueError("a tensor of more elements than there are")
    return told
