"""What a complete checkpoint is: a manifest of its files with their sizes and checksums, and what model it holds.

Checksums are XXH3's of 128 bits: they are against accidents, not against someone who wants to deceive, and are made at
the speed of memory.
"""

from __future__ import annotations

import contextlib
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
from aspo_megatron.writing import to_disk

FORMAT_VERSION = 3
"""Raised when a checkpoint can no longer be read by older code. Version 2 had no digest of the manifest itself."""

_READ = (2, FORMAT_VERSION)

MANIFEST = "manifest.json"

PARTS = "parts"
"""Folder of a checkpoint in the making, whose files are no part of it."""

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


def file_entry(path: Path, *, from_disk: bool = False) -> FileEntry:
    """Size and checksum of a file; `from_disk`: not as the kernel remembers a file that was written just now."""
    digest = xxhash.xxh3_128()
    size = 0
    block = memoryview(bytearray(_BLOCK))
    with path.open("rb", buffering=0) as file:
        if from_disk:
            with contextlib.suppress(OSError):  # some file systems have no such advice
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        while count := file.readinto(block):
            digest.update(block[:count])
            size += count
    return FileEntry(size, digest.hexdigest())


def write_durably(path: Path, content: bytes) -> FileEntry:
    """Write a file; the disk has it when this returns. What is returned is of `content`, not of the file.

    Raises:
        OSError: it cannot be written.
    """
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return FileEntry(len(content), xxhash.xxh3_128_hexdigest(content))


def read_back(folder: Path, files: Mapping[str, FileEntry]) -> None:
    """See that the disk has what was written to these files of `folder`.

    Raises:
        CheckpointError: a file holds something else; names it.
        OSError: it cannot be read.
    """
    for name, entry in files.items():
        if file_entry(folder / name, from_disk=True) != entry:
            raise CheckpointError(f"{name}: the disk gives back something else than was written")


def with_digest(content: Mapping[str, Any]) -> bytes:
    """What is told, as JSON that bears a checksum of itself."""
    return json.dumps({**content, "digest": _digest(content)}, indent=1).encode() + b"\n"


def self_consistent(content: Mapping[str, Any]) -> bool:
    """Whether what was read is what `with_digest` was given."""
    return content.get("digest") == _digest({name: value for name, value in content.items() if name != "digest"})


def _digest(content: Mapping[str, Any]) -> str:
    return xxhash.xxh3_128_hexdigest(json.dumps(content, sort_keys=True).encode())


def describe(folder: Path, known: Mapping[str, FileEntry]) -> dict[str, FileEntry]:
    """Every file of `folder`, which the disk has then; those in `known` are not read again.

    Raises:
        CheckpointError: a file of tensors is not `known`: only its writer can say what should be in it.
    """
    files = dict(known)
    for name in sorted(_names(folder) - files.keys()):
        if name.endswith(".distcp"):
            raise CheckpointError(f"{name}: its writer has not said what is in it")
        files[name] = file_entry(folder / name)
        to_disk(folder / name)
    return files


def write_manifest(
    folder: Path, model: str, family: str, layout: dict[str, Any], files: Mapping[str, FileEntry]
) -> None:
    """Write down what `folder` holds, which must be `files`. Durable, and read back, when this returns.

    Raises:
        CheckpointError: a file is missing or of another size, or is there and nobody has written it.
        OSError: the manifest cannot be written.
    """
    unknown = sorted(_names(folder) - files.keys() - {MANIFEST})
    if unknown:
        raise CheckpointError(f"{unknown[0]}: nobody has said what is in it")
    content = {
        "format": "aspo-megatron checkpoint",
        "version": FORMAT_VERSION,
        "model": model,
        "family": family,
        "layout": layout,
        "files": {name: asdict(files[name]) for name in sorted(files)},
    }
    read_back(folder, {MANIFEST: write_durably(folder / MANIFEST, with_digest(content))})
    read_manifest(folder)
    for path in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
        to_disk(path)


def _names(folder: Path) -> set[str]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return {path.as_posix() for path in paths if path.parts[0] != PARTS}


def read_manifest(folder: Path) -> Manifest:
    """The manifest, with every file there and of its right size. Reads no other file.

    Raises:
        CheckpointError: no manifest, a damaged one, another format or version, or a file is missing or truncated;
            names it.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise CheckpointError(f"{folder}: {MANIFEST} is missing, so this is not a complete checkpoint")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        version = content["version"]
        if version not in _READ:
            raise CheckpointError(f"{path}: format version {version}; this installation reads 2 and {FORMAT_VERSION}")
        if not self_consistent(content) if version == FORMAT_VERSION else "digest" in content:
            raise CheckpointError(f"{path}: damaged or edited (its digest is not that of what it says)")
        files = {name: FileEntry(entry["size"], entry["xxh3_128"]) for name, entry in content["files"].items()}
        manifest = Manifest(content["model"], content["family"], content["layout"], files)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged (it is no JSON)") from error
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: damaged (it lacks what a manifest has)") from error
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
