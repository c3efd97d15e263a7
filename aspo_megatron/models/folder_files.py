"""Which files of a model folder are its own: none that a link leads elsewhere for, no pipes, no devices.

What a folder holds is copied into what a run publishes. A folder that was unpacked from an archive may hold a link to
anything that this user can read.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from aspo_megatron.errors import CheckpointError
from aspo_megatron.folders import WEIGHTS_INDEX
from aspo_megatron.foreign_text import one_line

_OPENED_FOLDERS = ("additional_chat_templates",)
"""Folders inside a model folder that transformers opens."""

TOKENIZER_TEXTS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""Text that transformers reads itself: where it does not fail at a byte order mark, it takes the mark for text."""

SERVER_FILES = ("config.json", "generation_config.json", WEIGHTS_INDEX)
"""Those that are read here, mark or not, and that a server of the folder reads itself."""

MARK = b"\xef\xbb\xbf"

_BLOB = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
"""Names of files in the Hub's cache: hashes of what they hold."""


def refuse_foreign_files(folder: Path) -> None:
    """See that all files in a model folder are its own. Hidden files, which nobody opens, do not count.

    Raises:
        CheckpointError: names the file and what it is.
        OSError: the folder cannot be read.
    """
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        if path.name in _OPENED_FOLDERS and (path.is_dir() or path.is_symlink()):
            refuse_foreign_file(folder, path)
            for inner in sorted(path.iterdir()) if path.is_dir() else ():
                refuse_foreign_file(folder, inner)
        elif not path.is_dir():
            refuse_foreign_file(folder, path)


def refuse_foreign_file(folder: Path, path: Path) -> None:
    """See that a file in a model folder lies in it, or where the Hub's cache keeps the files of a snapshot.

    Raises:
        CheckpointError: it is a link to somewhere else, or no file at all; names it and what it is.
    """
    name = one_line(path)
    try:
        there = path.resolve()
        mode = path.lstat().st_mode if not path.is_symlink() else there.stat().st_mode if there.exists() else 0
    except (OSError, RuntimeError) as error:  # RuntimeError: before Python 3.13, a link that leads to itself
        raise CheckpointError(f"{name}: a link that leads nowhere ({one_line(error)}); remove it") from error
    if not _own(folder, there):
        raise CheckpointError(
            f"{name}: a link out of the model folder, to {one_line(there)}; put the file itself in its place"
        )
    if mode and not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise CheckpointError(f"{name}: not a regular file")


def refuse_marked_files(folder: Path, names: Sequence[str] = TOKENIZER_TEXTS) -> None:
    """See that none of these files of a model folder begins with a byte order mark; by default the tokenizer's.

    Raises:
        CheckpointError: one does, or cannot be read; names it.
    """
    templates = sorted(path for inner in _OPENED_FOLDERS for path in (folder / inner).glob("*.jinja"))
    for path in (*(folder / name for name in names), *templates):
        if path.is_file() and begins_with_mark(path):
            raise CheckpointError(
                f"{one_line(path)}: begins with a byte order mark, which the libraries that read it do not know; "
                "save it as UTF-8 without one"
            )


def begins_with_mark(path: Path) -> bool:
    """Whether the first bytes of a file say that it is UTF-8.

    Raises:
        CheckpointError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(len(MARK)) == MARK
    except OSError as error:
        raise CheckpointError(f"{one_line(path)}: cannot be read: {error.strerror}") from error


def refuse_links_out(folder: Path) -> None:
    """See that no file in a checkpoint, at any depth, is a link to somebody else's.

    Raises:
        CheckpointError: see `refuse_foreign_file`.
    """
    for inner, folders, files in os.walk(folder):
        for path in (Path(inner, name) for name in (*folders, *files)):
            if path.is_symlink():
                refuse_foreign_file(folder, path)


def is_plain_name(name: object) -> bool:
    """Whether a file's name, as another file gives it, is a name and no path."""
    return isinstance(name, str) and name not in ("", ".", "..") and not re.search(r"[/\\\0]", name)


def _own(folder: Path, there: Path) -> bool:
    root = folder.resolve()
    if there.is_relative_to(root):
        return True
    # hub/models--ORG--NAME/snapshots/REVISION/FILE is a link to hub/models--ORG--NAME/blobs/HASH
    snapshots = root.parent
    blobs = (snapshots.parent / "blobs").resolve()
    return snapshots.name == "snapshots" and there.parent == blobs and bool(_BLOB.fullmatch(there.name))
