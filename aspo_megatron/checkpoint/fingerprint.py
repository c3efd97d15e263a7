"""Tells models apart without reading all of their weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import xxhash

from aspo_megatron.checkpoint.hf.folder import weight_files
from aspo_megatron.checkpoint.hf.safetensors_file import entries_of, nbytes, read_header
from aspo_megatron.checkpoint.torch_dist.manifest import read_manifest
from aspo_megatron.errors import CheckpointError
from aspo_megatron.folders import MANIFEST, checkpoint_around
from aspo_megatron.reading import read_bytes

_BLOCK = 4096
_BLOCKS = 64
_WHOLE_BYTES = 16 << 20
"""Size of a file up to which all of it is read."""

_BYTES_OF_A_BLOCK = 64 << 20
"""A tensor has a block for each so many of its bytes, one at least."""

_READERS = 16
"""Files read side by side: it is the way to a disk of many machines that takes time."""


@dataclass(frozen=True)
class Fingerprint:
    """What tells the weights of a model folder from others; of random weights nothing.

    Attributes:
        whole: see `weights_fingerprint`.
        files: by the name of each file with weights: 32 hexadecimal digits. Of a large file they are made of samples of
            each of its tensors, and of its header.
    """

    whole: str = ""
    files: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Fingerprint:
        """Of a Hugging Face folder, or of the checkpoint around it, whose files have checksums already.

        Raises:
            CheckpointError: a file cannot be read.
        """
        checkpoint = checkpoint_around(folder)
        if checkpoint is not None:
            entries = read_manifest(checkpoint).files
            files = {name: entry.xxh3_128 for name, entry in entries.items() if name.endswith(".distcp")}
            return cls(weights_fingerprint(folder), files)
        names = weight_files(folder)
        with ThreadPoolExecutor(max_workers=min(_READERS, len(names))) as pool:
            hashes = pool.map(_of_file, [folder / name for name in names])
            return cls(weights_fingerprint(folder), dict(zip(names, hashes, strict=True)))


def weights_fingerprint(folder: Path) -> str:
    """A hash of a model folder's weights, whatever the folder is called: 32 hexadecimal digits.

    Of each safetensors file it takes the size and 64 blocks of 4 KiB, spread from its first byte (the header) to its
    last. An optimizer update changes about every weight, so it is seen; a change of a few bytes by hand may not be.
    A megatron checkpoint has the checksums of its files, which are taken as they are.

    Raises:
        CheckpointError: a file cannot be read.
    """
    digest = xxhash.xxh3_128()
    checkpoint = checkpoint_around(folder)
    try:
        if checkpoint is not None:
            digest.update(read_bytes(checkpoint / MANIFEST, CheckpointError))
            return digest.hexdigest()
        for path in sorted(path for path in folder.glob("*.safetensors") if path.is_file()):
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            with path.open("rb") as file:
                for number in range(_BLOCKS):
                    file.seek(max(0, size - _BLOCK) * number // (_BLOCKS - 1), os.SEEK_SET)
                    digest.update(file.read(_BLOCK))
    except OSError as error:
        raise CheckpointError(f"{error.filename or folder}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _of_file(path: Path) -> str:
    digest = xxhash.xxh3_128()
    try:
        with path.open("rb", buffering=0) as file:
            size = os.fstat(file.fileno()).st_size
            digest.update(f"{size}\n".encode())
            for start, length in _whole(size) if size <= _WHOLE_BYTES else _samples(path, size):
                digest.update(_read(file, start, length))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    return digest.hexdigest()


def _whole(size: int) -> Iterator[tuple[int, int]]:
    for start in range(0, size, 1 << 20):
        yield start, min(1 << 20, size - start)


def _samples(path: Path, size: int) -> Iterator[tuple[int, int]]:
    """Start and length of the blocks to read: the header, and at least one from the middle of each tensor."""
    header = read_header(path)
    position = 8 + len(header)
    yield 0, position
    for entry in entries_of(header):
        length = nbytes(entry)
        count = 1 + length // _BYTES_OF_A_BLOCK
        for number in range(count):
            middle = position + length * (2 * number + 1) // (2 * count)
            start = max(position, middle - _BLOCK // 2)
            yield start, min(_BLOCK, position + length - start)
        position += length
    yield position, max(0, size - position)


def _read(file: BinaryIO, start: int, length: int) -> bytes:
    file.seek(start, os.SEEK_SET)
    return file.read(length)
