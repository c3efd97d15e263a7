"""Tells models apart without reading all of their weights."""

from __future__ import annotations

import os
from pathlib import Path

import xxhash

from aspo_megatron.checkpoint.integrity import MANIFEST
from aspo_megatron.checkpoint.sidecar import checkpoint_around
from aspo_megatron.errors import CheckpointError
from aspo_megatron.reading import read_bytes

_BLOCK = 4096
_BLOCKS = 64


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
