"""What a complete checkpoint is: a manifest of its files with their sizes and checksums, and what model it holds.

Checksums are XXH3's of 128 bits: they are against accidents, not against someone who wants to deceive, and are made at
the speed of memory.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from aspo_megatron.checkpoint import checked_json
from aspo_megatron.checkpoint.checked_json import self_consistent, with_digest
from aspo_megatron.errors import CheckpointError
from aspo_megatron.files import to_disk
from aspo_megatron.folders import MANIFEST
from aspo_megatron.foreign_text import one_line, placed
from aspo_megatron.models.folder_files import refuse_links_out
from aspo_megatron.models.run_folder_hint import of_a_run
from aspo_megatron.reading import read_text, refuse_many_values

if TYPE_CHECKING:  # every command imports this module, and that one imports torch
    from aspo_megatron.models.family import Family

FORMAT_VERSION = 3
"""Raised when a checkpoint can no longer be read by older code. Version 2 had no digest of the manifest itself."""

_READ = (2, FORMAT_VERSION)

_FORMAT = "aspo-megatron checkpoint"

_LONGEST = 1000
"""Characters of the name of a file."""

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
            raise CheckpointError(f"{name}: the disk returns something other than what was written")


def describe(folder: Path, known: Mapping[str, FileEntry]) -> dict[str, FileEntry]:
    """Every file of `folder`, which the disk has then; those in `known` are not read again.

    Raises:
        CheckpointError: a file of tensors is not `known`: only its writer can say what should be in it.
    """
    files = dict(known)
    for name in sorted(_names(folder) - files.keys()):
        if name.endswith(".distcp"):
            raise CheckpointError(f"{name}: its writer has not recorded what is in it")
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
        raise CheckpointError(f"{unknown[0]}: no rank has recorded what is in it")
    content = {
        "format": _FORMAT,
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
            names it. A file is a link out of the folder.
    """
    path = folder / MANIFEST
    refuse_links_out(folder)
    if not path.is_file():
        if not folder.is_dir():
            raise CheckpointError(f"there is no folder {placed(folder)}")
        if hint := of_a_run(folder, checkpoint=True):
            raise CheckpointError(hint)
        raise CheckpointError(f"{folder}: {MANIFEST} is missing, so this is not a complete checkpoint")
    text = read_text(path, CheckpointError)
    refuse_many_values(text, one_line(path), CheckpointError)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged (not JSON)") from error
    try:
        manifest = _manifest(path, content)
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged ({error})") from error
    for name, entry in manifest.files.items():
        shown, size = one_line(folder / name), _size_of(folder / name)
        if size is None:
            raise CheckpointError(f"{shown}: missing from the checkpoint")
        if size != entry.size:
            raise CheckpointError(f"{shown}: truncated or damaged ({size} bytes instead of {entry.size})")
    return manifest


def _size_of(path: Path) -> int | None:
    """Size of a file; None if there is none, or something else of its name.

    Raises:
        OSError: that cannot be said now.
    """
    try:
        found = path.stat()
    except ValueError:  # a name that no file can have
        return None
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG):
            return None
        raise
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _manifest(path: Path, content: Any) -> Manifest:
    """What a manifest says; whether that is so is seen later.

    Raises:
        CheckpointError: it is of another version, or edited.
        ValueError: it lacks what a manifest has.
    """
    checked_json.mapping(content, "it")
    version = checked_json.whole(content, "version")
    if version not in _READ:
        raise CheckpointError(f"{path}: format version {version}; this installation reads 2 and {FORMAT_VERSION}")
    if not self_consistent(content) if version == FORMAT_VERSION else "digest" in content:
        raise CheckpointError(f"{path}: damaged or edited (its digest does not match its content)")
    if content.get("format") != _FORMAT:
        raise ValueError(f"it is none of an {_FORMAT}")
    layout = checked_json.mapping(content.get("layout"), "layout")
    return Manifest(
        checked_json.text(content, "model"), checked_json.text(content, "family"), layout, file_entries(content)
    )


def file_entries(content: Mapping[str, Any]) -> dict[str, FileEntry]:
    """The files that a manifest names, or a rank's part.

    Raises:
        ValueError: an entry is none, or of a file that is not in the folder.
    """
    entries = {}
    for name, value in checked_json.mapping(content.get("files"), "files").items():
        entry = checked_json.mapping(value, f"the entry of {name[:_LONGEST]}")
        parts = name.split("/")
        if {"", ".", ".."} & set(parts) or len(name) > _LONGEST:
            raise ValueError(f"{one_line(name[:_LONGEST])} is no file in the folder")
        checksum = checked_json.text(entry, "xxh3_128")
        if not re.fullmatch("[0-9a-f]{32}", checksum):
            raise ValueError(f"the checksum of {one_line(name)} is none")
        entries[name] = FileEntry(checked_json.whole(entry, "size"), checksum)
    return entries


def check_model(folder: Path, manifest: Manifest, family: Family) -> None:
    """Refuse the checkpoint of another model than `family`.

    Raises:
        CheckpointError: names both.
    """
    own = model_identity(family.hf_config)
    if manifest.family == family.name and (manifest.model == own or manifest.model == _earlier_identity(family)):
        return
    raise CheckpointError(
        f"{folder}: holds another model ({manifest.family}, config {manifest.model[:12]}) than model.path "
        f"({family.name}, config {own[:12]})"
    )


def _earlier_identity(family: Family) -> str | None:
    """By what earlier versions knew a model whose rotary positions are scaled: transformers had written into it."""
    if not family.hf_config.keys() & {"rope_scaling", "rope_parameters"}:
        return None
    from aspo_megatron.models.hf_config import config_as_left

    return model_identity(config_as_left(family))
