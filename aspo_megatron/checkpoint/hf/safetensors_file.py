"""Safetensors files written a tensor at a time, with a header that is known beforehand.

A file is the header's length (8 bytes, little-endian), the header (JSON: of each tensor its precision, shape and place
in what follows), and the tensors' bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aspo_megatron.checkpoint import checked_json
from aspo_megatron.checkpoint.checked_json import shown
from aspo_megatron.checkpoint.torch_dist.torch_file import whole_numbers
from aspo_megatron.errors import CheckpointError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.reading import open_file, refuse_many_values

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

LARGEST_HEADER = 100_000_000
"""Bytes; the format's own bound."""

_LARGEST_TOGETHER = 32 << 20
"""Bytes of the headers of all files of a model, of whose tensors the library makes ten times as much: more than twice
those of any known model."""


@dataclass(frozen=True)
class Entry:
    """A tensor of a file."""

    name: str
    dtype: torch.dtype
    size: tuple[int, ...]


def read_header(path: Path) -> bytes:
    """The header of a file as it stands there.

    Raises:
        CheckpointError: the file is not a safetensors file, or cannot be read.
    """
    if not path.is_file():
        raise CheckpointError(f"{one_line(path)}: no such file")
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            believed = 2 <= length <= min(LARGEST_HEADER, os.fstat(file.fileno()).st_size - 8)
            header = file.read(length) if believed else b""
    except OSError as error:
        raise CheckpointError(f"{one_line(path)}: cannot be read: {error.strerror}") from error
    if len(header) != length or not header.startswith(b"{"):
        raise CheckpointError(f"{one_line(path)}: truncated or damaged")
    return header


def small_headers(folder: Path, files: Sequence[str]) -> Sequence[str]:
    """The same files of a folder, if their headers are together as small as those of models are.

    Raises:
        CheckpointError: they are not; names the file at which that is seen. What is damaged is not said here.
    """
    left = _LARGEST_TOGETHER
    for name in files:
        try:
            with open_file(folder / name) as file:
                length, size = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size
        except (OSError, ValueError):
            continue
        left -= length if length <= size else 0
        if left < 0:
            raise CheckpointError(
                f"{one_line(folder / name)}: the headers up to this file's are larger than "
                f"{_LARGEST_TOGETHER >> 20} MiB, which is more than those of any model's tensors"
            )
    return files


def entries_of(header: bytes) -> list[Entry]:
    """The tensors that a header describes, in the order of their bytes, which lie one after the other.

    Raises:
        CheckpointError: not a header, or of a precision that is not supported.
    """
    try:
        if len(header) > LARGEST_HEADER:
            raise ValueError("it is larger than the format allows")
        text = header.decode()
        refuse_many_values(text, "not the header of a safetensors file", CheckpointError)
        content = checked_json.mapping(json.loads(text, object_pairs_hook=_without_doubles), "it")
        places = [(*_place(name, entry), name) for name, entry in content.items() if name != "__metadata__"]
        entries, position = [], 0
        for begin, end, name in sorted(places):
            entry = _entry(name, content[name])
            if begin != position or end - begin != nbytes(entry):
                raise ValueError(f"tensor {shown(name)} is not where its size says")
            entries.append(entry)
            position = end
        return entries
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"not the header of a safetensors file ({error})") from error


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name is there twice")
    return found


def _place(name: str, value: Any) -> tuple[int, int]:
    entry = checked_json.mapping(value, f"tensor {shown(name)}")
    offsets = checked_json.wholes(entry, "data_offsets")
    if len(offsets) != 2 or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {shown(name)} is not described as a tensor")
    return offsets[0], offsets[1]


def _entry(name: str, entry: Mapping[str, Any]) -> Entry:
    dtype = checked_json.text(entry, "dtype")
    if dtype not in DTYPES:
        raise CheckpointError(f"safetensors: precision {dtype!r} is not supported")
    return Entry(name, DTYPES[dtype], whole_numbers(tuple(checked_json.wholes(entry, "shape"))))


def make_header(entries: Sequence[Entry]) -> bytes:
    """A header for tensors that lie one after the other."""
    told: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for entry in entries:
        end = position + nbytes(entry)
        told[entry.name] = {
            "dtype": _NAMES[entry.dtype],
            "shape": list(entry.size),
            "data_offsets": [position, end],
        }
        position = end
    header = json.dumps(told, separators=(",", ":")).encode()
    return header + b" " * (-len(header) % 8)


def nbytes(entry: Entry) -> int:
    """Bytes of a tensor."""
    return torch.Size(entry.size).numel() * entry.dtype.itemsize


def write_file(
    path: Path, header: bytes, read: Callable[[Entry], Sequence[Tensor]], on_bytes: Callable[[int], None]
) -> None:
    """Write the file that `header` describes.

    Args:
        path: the file.
        header: see `make_header`.
        read: gives a tensor, as the parts that it is the concatenation of along dim 0.
        on_bytes: called with the number of bytes written.

    Raises:
        CheckpointError: a tensor is of another shape or precision than the header says.
        OSError: the file cannot be written.
    """
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for entry in entries_of(header):
            parts = read(entry)
            _check(entry, parts)
            for part in parts:
                file.write(part.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            on_bytes(nbytes(entry))
        file.flush()
        os.fsync(file.fileno())


def _check(entry: Entry, parts: Sequence[Tensor]) -> None:
    first = parts[0]
    size = tuple(first.shape) if len(parts) == 1 else (sum(part.shape[0] for part in parts), *first.shape[1:])
    dtypes = {part.dtype for part in parts}
    if size != entry.size or dtypes != {entry.dtype} or len({part.shape[1:] for part in parts}) > 1:
        raise CheckpointError(
            f"tensor {shown(entry.name)} is {first.dtype} {list(size)}, but was {entry.dtype} {list(entry.size)} before"
        )


def divide(entries: Iterable[Entry], max_bytes: int) -> dict[str, list[Entry]]:
    """Entries by file name, in files of at most `max_bytes` (or a single tensor)."""
    parts: list[list[Entry]] = [[]]
    held = 0
    for entry in entries:
        if parts[-1] and held + nbytes(entry) > max_bytes:
            parts.append([])
            held = 0
        parts[-1].append(entry)
        held += nbytes(entry)
    if len(parts) == 1:
        return {"model.safetensors": parts[0]}
    return {f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors": part for i, part in enumerate(parts)}


def make_index(files: Mapping[str, Sequence[Entry]]) -> str:
    """The content of model.safetensors.index.json."""
    total = sum(nbytes(entry) for part in files.values() for entry in part)
    weight_map = {entry.name: file for file, part in files.items() for entry in part}
    return json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}, indent=2) + "\n"
