"""Compares the files of a checkpoint with the checksums in its manifest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from aspo_megatron.checkpoint.torch_dist.manifest import FileEntry, Manifest, file_entry
from aspo_megatron.errors import CheckpointError
from aspo_megatron.foreign_text import one_line


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
            shown = one_line(folder / name)
            if isinstance(entry, OSError):
                raise CheckpointError(f"{shown}: cannot be read ({entry.strerror})") from entry
            if entry != manifest.files[name]:
                raise CheckpointError(f"{shown}: damaged (its checksum is not the one it was written with)")


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
