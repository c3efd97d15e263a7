"""The one reading of a model folder: whatever command is given a folder, the same ones are refused, in the same words.

There are three depths, each with all that the one before refuses. Which a command needs depends on what it takes of
the folder; none has a reading of its own.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch

from aspo_megatron.checkpoint.checked_json import shown
from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder
from aspo_megatron.checkpoint.hf.safetensors_file import DTYPES
from aspo_megatron.checkpoint.hf_view import EMBEDDING, HEAD, HfView
from aspo_megatron.checkpoint.torch_dist.manifest import check_model, read_manifest
from aspo_megatron.checkpoint.torch_dist.reader import TorchDistReader
from aspo_megatron.checkpoint.torch_dist.sidecar import refuse_foreign_sidecar
from aspo_megatron.errors import CheckpointError
from aspo_megatron.folders import MANIFEST, TENSOR_INDEX, checkpoint_around
from aspo_megatron.foreign_text import one_line
from aspo_megatron.models.counts import model_elements
from aspo_megatron.models.data_only import read_tokenizer_config
from aspo_megatron.models.family import Family, read_family
from aspo_megatron.models.folder_files import refuse_marked_files
from aspo_megatron.models.generation_file import generation_end
from aspo_megatron.models.mapping import each_hf_size

COMPUTED = ".rotary_emb.inv_freq"
"""How the names of tensors end that are no weights, which older files hold all the same."""

_FLOATING = {name for name, dtype in DTYPES.items() if dtype.is_floating_point}
_ROWS = 4096
"""Of two matrices that are compared, so many are in memory at a time."""


def usable_config(folder: Path) -> Family:
    """The model of a folder whose weights are somewhere else: of a server, which has them already.

    Raises:
        UserError: a file of the folder that is no weights cannot be used; names it.
    """
    from aspo_megatron.models.hf_config import inverse_frequencies

    if (folder / TENSOR_INDEX).is_file():
        raise CheckpointError(
            f"model.path: {one_line(folder)} is a megatron checkpoint, but not one that a run or "
            f"`aspo convert hf-to-megatron` has made: {MANIFEST} is missing"
        )
    family = read_family(folder)
    refuse_marked_files(folder)
    read_tokenizer_config(folder)
    generation_end(folder)
    inverse_frequencies(family)
    return family


def usable_model(folder: Path) -> Family:
    """The model of a folder that is to be trained, served or planned for, with these weights, random or later ones.

    Raises:
        UserError: see `usable_config`; or its weights are quantised, which what is exported would say, too.
    """
    family = usable_config(folder)
    if family.hf_config.get("quantization_config") is not None:
        raise CheckpointError(f"{folder}: its weights are quantised; give the folder that it was made from")
    return family


def usable_weights(folder: Path) -> Family:
    """The model of a folder whose weights are to be read; their values are not looked at.

    Args:
        folder: with safetensors files, or the `hf` inside a megatron checkpoint.

    Raises:
        UserError: see `usable_model` and `check_weights`; or the checkpoint is not whole.
    """
    family = usable_model(folder)
    checkpoint = checkpoint_around(folder)
    if checkpoint is None:
        check_weights(folder, family)
        return family
    refuse_foreign_sidecar(folder)
    check_model(checkpoint, read_manifest(checkpoint), family)
    with TorchDistReader(checkpoint, family) as reader:
        HfView(reader, family)
    return family


def usable_here(folder: Path, init: str) -> Family:
    """The model of a folder that ranks are to use later, perhaps on other machines, which then have its weights.

    Args:
        folder: with weights, which are then looked at as well, or without.
        init: as `model.init`; with `random` weights are not looked at.

    Raises:
        UserError: see `usable_weights`.
    """
    is_there = checkpoint_around(folder) is not None or any(folder.glob("*.safetensors"))
    return usable_weights(folder) if is_there and init == "pretrained" else usable_model(folder)


def check_weights(folder: Path, family: Family) -> None:
    """Compare the headers of the folder's safetensors with its config.json: all tensors are there, and no others.

    Raises:
        CheckpointError: a file is missing, truncated or damaged, or a tensor is missing, of another shape, no weights,
            or not one that the model has; the embeddings are tied, and there is another output layer.
    """
    with SafetensorsFolder(folder) as source:
        left = set(source.names())
        # Not by a list of all names: they may be a million, of which the files have a hundred.
        for name, shape in each_hf_size(family.rows, family.shape(tp=1)):
            if name not in left:
                raise CheckpointError(
                    f"{folder}: tensor {name} is missing from its safetensors files{_lacking(name, source, family)}"
                )
            if tuple(source.shape(name)) != shape:
                raise CheckpointError(
                    f"{folder}: tensor {name} has shape {source.shape(name)}, config.json asks for {list(shape)}"
                )
            if source.dtype(name) not in _FLOATING:
                raise CheckpointError(
                    f"{folder}: tensor {name} has dtype {source.dtype(name)}, but weights are floating-point numbers"
                )
            left.remove(name)
        _refuse_others(folder, source, sorted(left), family)


def _refuse_others(folder: Path, source: SafetensorsFolder, names: list[str], family: Family) -> None:
    """Tensors that the table does not have. Left out they would make another model of it in silence."""
    for name in names:
        if name == HEAD and family.tied_embeddings:
            if not _same_bits(source, HEAD, EMBEDDING):
                raise CheckpointError(
                    f"{folder}: config.json ties the embeddings, but {HEAD} is not {EMBEDDING}; if the model has "
                    "its own output layer, set tie_word_embeddings to false in config.json, otherwise remove the tensor"
                )
        elif not name.endswith(COMPUTED):
            raise CheckpointError(
                f"{folder}: tensor {shown(name)} is not one that a {family.name} model has with this config.json"
            )


def _same_bits(source: SafetensorsFolder, one: str, other: str) -> bool:
    """Whether two matrices are the same, NaN included; some rows after the others."""
    if (source.shape(one), source.dtype(one)) != (source.shape(other), source.dtype(other)):
        return False
    rows = source.shape(one)[0]
    return all(
        torch.equal(*(bits(source.read(name, 0, start, min(start + _ROWS, rows))) for name in (one, other)))
        for start in range(0, rows, _ROWS)
    )


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor's bytes, which are compared: NaN equals itself."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def _lacking(name: str, source: SafetensorsFolder, family: Family) -> str:
    if name == HEAD:
        return (
            "; if the model has no output layer but its embeddings, set tie_word_embeddings to true in config.json "
            "(which does not tie them)"
        )
    asked = model_elements(family)
    held = sum(math.prod(source.shape(name)) for name in source.names())
    return f"; config.json asks for {asked:,} parameters, they hold {held:,}" if asked > held else ""
