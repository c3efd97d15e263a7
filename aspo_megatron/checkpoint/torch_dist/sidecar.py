"""What a megatron checkpoint keeps of its Hugging Face folder, so that it can become one again: `hf/` inside it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from aspo_megatron import reading
from aspo_megatron.errors import CheckpointError
from aspo_megatron.folders import SIDECAR, WEIGHTS_INDEX, checkpoint_around
from aspo_megatron.foreign_text import one_line
from aspo_megatron.models.folder_files import refuse_foreign_file

_WEIGHTS = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".onnx", ".h5", ".msgpack", ".distcp")
_PICKLES = (".pkl", ".pickle", ".ckpt", ".npy", ".npz")
"""Read by nothing here; who is given a folder may read them."""
_LARGEST = 256 << 20


def sidecar_files(folder: Path) -> list[Path]:
    """The files of a Hugging Face folder that are not weights: configuration, tokenizer, chat template, license.

    Raises:
        CheckpointError: one of them lies elsewhere, or the folder of a checkpoint does.
    """
    refuse_foreign_sidecar(folder)
    found = sorted(
        path
        for path in folder.iterdir()
        if path.is_file()
        and path.suffix not in (*_WEIGHTS, *_PICKLES)
        and path.name != WEIGHTS_INDEX
        and not path.name.startswith(".")
        and path.stat().st_size <= _LARGEST
    )
    for path in found:
        refuse_foreign_file(folder, path)
    return found


def refuse_foreign_sidecar(folder: Path) -> None:
    """See that the Hugging Face folder in a checkpoint, if it is one, lies there.

    Raises:
        CheckpointError: it is a link to another place.
    """
    checkpoint = checkpoint_around(folder)
    if checkpoint is not None:
        refuse_foreign_file(checkpoint, folder)


def copy_sidecar(model_folder: Path, checkpoint: Path) -> None:
    """Keep the files beside the weights of `model_folder` in a checkpoint."""
    target = checkpoint / SIDECAR
    target.mkdir()
    for path in sidecar_files(model_folder):
        shutil.copyfile(path, target / path.name)


def read_json(path: Path) -> Any:
    """The content of a JSON file of a checkpoint.

    Raises:
        CheckpointError: missing or damaged.
    """
    try:
        return reading.read_json(path, CheckpointError)
    except CheckpointError as error:
        reason = str(error).removeprefix(f"{one_line(path)}: ")
        raise CheckpointError(f"{one_line(path)}: cannot be read ({reason})") from error
