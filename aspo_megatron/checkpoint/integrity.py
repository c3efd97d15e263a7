"""What a complete checkpoint is: a manifest of its files with their sizes and checksums, and what model it holds.

Checksums are XXH3's of 128 bits: they are against accidents, not against someone who wants to deceive, and are made at
the speed of memory.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import xxhash

from aspo_megatron.errors import CheckpointError

FORMAT_VERSION = 2
"""Raised when a checkpoint can no longer be read by older code."""

MANIFEST = "manifest.json"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class FileEntry:
    """Size and XXH3-128 (hexadecimal) of a file."""

    size: int
    xxh3_128: str


@dataclass(frozen=True)
class Manifest:
    """`model`: see `model_identity`. `layout`: how the tensors were split when they were written."""

    model: str
    family: str
    layout: dict[str, Any]
    files: dict[str, FileEntry]


def model_identity(hf_config: Mapping[str, Any]) -> str:
    """A hash of what config.json says about the shape and meaning of the weights.

    The fields about precision and about who wrote the file do not count, so that a model is the same after export.
    """
    aside = {"dtype", "torch_dtype", "transformers_version", "_name_or_path", "use_cache"}
    told = {name: value for name, value in hf_config.items() if name not in aside}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def file_entry(path: Path) -> FileEntry:
    """Size and checksum of a file on disk."""
    digest = xxhash.xxh3_128()
    size = 0
    block = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(block):
            digest.update(block[:count])
            size += count
    return FileEntry(size, digest.hexdigest())


def write_manifest(
    folder: Path, model: str, family: str, layout: dict[str, Any], known: Mapping[str, FileEntry]
) -> None:
    """Describe every file of `folder`; those in `known` are not read again. Durable when this returns."""
    files = dict(known)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if name not in files:
            files[name] = file_entry(path)
            sync(path)
    content = {
        "format": "aspo-megatron checkpoint",
        "version": FORMAT_VERSION,
        "model": model,
        "family": family,
        "layout": layout,
        "files": {name: asdict(files[name]) for name in sorted(files)},
    }
    (folder / MANIFEST).write_text(json.dumps(content, indent=1) + "\n")
    sync(folder / MANIFEST)
    sync(folder)


def read_manifest(folder: Path) -> Manifest:
    """The manifest, with every file there and of its right size. Reads no other file.

    Raises:
        CheckpointError: no manifest, another format or version, or a file is missing or truncated; names it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{folder}: {MANIFEST} is missing, so this is not a complete checkpoint")
    try:
        content = json.loads(path.read_text())
        version = content["version"]
        if version != FORMAT_VERSION:
            raise CheckpointError(f"{path}: format version {version}; this installation reads {FORMAT_VERSION}")
        files = {name: FileEntry(entry["size"], entry["xxh3_128"]) for name, entry in content["files"].items()}
        manifest = Manifest(content["model"], content["family"], content["layout"], files)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged ({error!r})") from error
    for name, entry in manifest.files.items():
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name}: missing from the checkpoint")
        size = (folder / name).stat().st_size
        if size != entry.size:
            raise CheckpointError(f"{folder / name}: truncated or damaged ({size} bytes instead of {entry.size})")
    return manifest


def verify_files(folder: Path, manifest: Manifest, part: int = 0, parts: int = 1) -> None:
    """Compare the checksums of the files whose number is `part` modulo `parts`.

    Raises:
        CheckpointError: a file has changed; names it.
    """
    names = sorted(manifest.files)[part::parts]
    # Alone on the machine this uses all of its cores; one of many ranks has one.
    with ThreadPoolExecutor(max_workers=(os.cpu_count() or 1) if parts == 1 else 1) as pool:
        found = pool.map(lambda name: _entry_or_error(folder / name), names)
        for name, entry in zip(names, found, strict=True):
            if isinstance(entry, OSError):
                raise CheckpointError(f"{folder / name}: cannot be read ({entry.strerror})") from entry
            if entry != manifest.files[name]:
                raise CheckpointError(f"{folder / name}: damaged (its checksum is not the one it was written with)")


@contextmanager
def verified_meanwhile(folder: Path, manifest: Manifest) -> Iterator[None]:
    """Compare the checksums of a checkpoint's files while the block reads them.

    Raises:
        CheckpointError: a file has changed; also where the block has failed, since that is the reason then.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        verified = pool.submit(verify_files, folder, manifest)
        try:
            yield
        finally:
            verified.result()


def _entry_or_error(path: Path) -> FileEntry | OSError:
    try:
        return file_entry(path)
    except OSError as error:
        return error


def check_model(folder: Path, manifest: Manifest, hf_config: Mapping[str, Any], family: str) -> None:
    """Refuse the checkpoint of another model.

    Raises:
        CheckpointError: names both.
    """
    if (manifest.family, manifest.model) != (family, model_identity(hf_config)):
        raise CheckpointError(
            f"{folder}: holds another model ({manifest.family}, config {manifest.model[:12]}) than model.path "
            f"({family}, config {model_identity(hf_config)[:12]})"
        )


def sync(path: Path) -> None:
    """Have the kernel write a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
