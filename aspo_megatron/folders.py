"""Names of the files in the folder of a checkpoint, and which Hugging Face folder a path stands for."""

from __future__ import annotations

import errno
from pathlib import Path

MANIFEST = "manifest.json"
"""What makes a folder a complete checkpoint: the list of its files."""

SIDECAR = "hf"
"""What a checkpoint keeps of its Hugging Face folder, so that it can become one again."""


def model_folder(path: Path) -> Path:
    """The Hugging Face folder that `path` stands for: the one inside, if it is a checkpoint; else itself."""
    return path / SIDECAR if _is_checkpoint(path) else path


def checkpoint_around(folder: Path) -> Path | None:
    """The checkpoint that a Hugging Face folder is inside, whose weights are its weights; None if it has its own."""
    return folder.parent if folder.name == SIDECAR and _is_checkpoint(folder.parent) else None


def _is_checkpoint(folder: Path) -> bool:
    """Whether a manifest is there. One that may not be looked at is an error; a name too long for any file is none."""
    try:
        return (folder / MANIFEST).is_file()
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return False
        raise
