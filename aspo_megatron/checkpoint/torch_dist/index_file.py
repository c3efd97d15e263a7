"""The index of a checkpoint's tensors, `.metadata`: torch's pickle of it read as plain data, and made anew of that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)

from aspo_megatron.checkpoint.checked_json import shown
from aspo_megatron.checkpoint.torch_dist.plain_pickle import Made, Name, Pairs, PlainPickleError, read_pickle
from aspo_megatron.checkpoint.torch_dist.torch_file import DTYPES, whole_numbers

_METADATA = "torch.distributed.checkpoint.metadata"
_NAMES = {
    _METADATA: {
        "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta", "TensorProperties",
        "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch": {"Size", *DTYPES},
    "torch.serialization": {"_get_layout"},
}  # fmt: skip
"""What an index is made of: descriptions of tensors."""


_MOST_PIECES = 4 * 64
"""Of a weight: as it is and as the optimizer's three tensors, each cut for so many ranks."""

_READ, _MADE = 4096, 1024
"""Bytes of memory that a piece takes as it is read, and when it is made anew, at most."""

_SMALL, _LARGE = 1 << 27, 1 << 31
"""Bytes of memory that any index may take, and the most that one may: more than the state of a model of 36,000 experts
takes if each is cut for eight ranks."""

MEMORY_OF_A_BYTE = 8
"""An index takes more memory than bytes, by more than this."""


def index_memory(weights: int) -> int:
    """Bytes of memory that the index of a model of so many `weights` may take as it is read."""
    return min(_SMALL + weights * _MOST_PIECES * _READ, _LARGE)


def parse_index(content: bytes, most_bytes: int) -> Metadata:
    """The index that a file holds, with torch's own classes; nothing of it is as the file's writer has made it.

    `most_bytes`: of memory that what it says may take, and as much again what is made of that.

    Raises:
        ValueError: it is damaged, holds anything but the description of tensors, or more of that.
    """
    told = read_pickle(content, _NAMES, most_bytes)
    fields = _fields(told, "Metadata", "the index of a distributed checkpoint")
    tensors: dict[str, Any] = {}
    left = most_bytes // _MADE
    for key, entry in _pairs(fields.get("state_dict_metadata")):
        if type(key) is not str or key in tensors:
            raise PlainPickleError("a tensor's name is no text, or is there twice")
        tensors[key] = _tensor(key, entry, left)
        left -= 1 + len(tensors[key].chunks)
    storage: dict[MetadataIndex, _StorageInfo] = {}
    for place, entry in _pairs(fields.get("storage_data")):
        index = _index(place)
        if index in storage:
            raise PlainPickleError(f"tensor {shown(index.fqn)}: a piece of it is in two places")
        storage[index] = _place(index.fqn, entry)
    return Metadata(state_dict_metadata=tensors, storage_data=storage, storage_meta=StorageMeta())


def _tensor(key: str, entry: Any, most_pieces: int) -> TensorStorageMetadata:
    name = f"tensor {shown(key)}"
    fields = _fields(entry, "TensorStorageMetadata", name)
    properties = fields.get("properties")
    if type(properties) is not Made or properties.of != Name(_METADATA, "TensorProperties"):
        raise PlainPickleError(f"{name}: is not described as one")
    told = properties.state[0] if type(properties.state) is tuple and properties.state else None
    dtype = DTYPES.get(told.name) if type(told) is Name and told.module == "torch" else None
    chunks = fields.get("chunks")
    if dtype is None or type(chunks) is not list:
        raise PlainPickleError(f"{name}: is not described as one")
    if len(chunks) >= most_pieces:
        raise PlainPickleError(f"{name}: more pieces than the model's tensors are cut into")
    pieces = [_fields(chunk, "ChunkStorageMetadata", name) for chunk in chunks]
    return TensorStorageMetadata(
        TensorProperties(dtype),
        _size(fields.get("size"), name),
        [ChunkStorageMetadata(_size(piece.get("offsets"), name), _size(piece.get("sizes"), name)) for piece in pieces],
    )


def _index(told: Any) -> MetadataIndex:
    fields = _fields(told, "MetadataIndex", "a piece of a tensor")
    key, number = fields.get("fqn"), fields.get("index")
    if type(key) is not str or not (number is None or type(number) is int):
        raise PlainPickleError("a piece of a tensor is not described as one")
    return MetadataIndex(key, _size(fields.get("offset"), f"tensor {shown(key)}"), number)


def _place(key: str, told: Any) -> _StorageInfo:
    name = f"tensor {shown(key)}"
    fields = _fields(told, "_StorageInfo", name, "torch.distributed.checkpoint.filesystem")
    file, start, length = (fields.get(part) for part in ("relative_path", "offset", "length"))
    if type(file) is not str or type(start) is not int or type(length) is not int:
        raise PlainPickleError(f"{name}: the place of a piece is not described as one")
    if fields.get("transform_descriptors") is not None:
        raise PlainPickleError(f"{name}: a piece of it is compressed")
    return _StorageInfo(file, start, length)


def _size(told: Any, name: str) -> torch.Size:
    if type(told) is not Made or told.of != Name("torch", "Size") or told.state is not None or len(told.args) != 1:
        raise PlainPickleError(f"{name}: a size that is none")
    try:
        return torch.Size(whole_numbers(told.args[0]))
    except ValueError as error:
        raise PlainPickleError(f"{name}: {error}") from error


def _fields(told: Any, kind: str, name: str, module: str = _METADATA) -> dict[str, Any]:
    """What a record of this class would have as its fields."""
    if type(told) is not Made or told.of != Name(module, kind) or told.args:
        described = str(told.of) if type(told) is Made else "something else"
        raise PlainPickleError(f"{name}: is {described}, not {kind}")
    fields: dict[str, Any] = {}
    for field, value in _pairs(told.state):
        if type(field) is not str or field in fields:
            raise PlainPickleError(f"{name}: is not described as one")
        fields[field] = value
    return fields


def _pairs(told: Any) -> Iterator[tuple[Any, Any]]:
    if type(told) is not Pairs:
        raise PlainPickleError("it is not the index of a distributed checkpoint")
    return told.pairs()
