"""What a converted checkpoint keeps of the files it was made of, so that they come back byte for byte."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from aspo_megatron.checkpoint.hf import SafetensorsFolder, weight_files
from aspo_megatron.checkpoint.hf_view import EMBEDDING, HEAD, HfView
from aspo_megatron.checkpoint.safetensors_file import Entry, divide, entries_of, make_header, make_index, read_header
from aspo_megatron.errors import CheckpointError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.models.family import Family
from aspo_megatron.models.folder_files import refuse_foreign_file
from aspo_megatron.models.mapping import hf_sizes
from aspo_megatron.reading import read_bytes

_FOLDER = "headers"
_EXTRA = "extra.safetensors"
_INDEX = "model.safetensors.index.json"


def keep_headers(source: Path, partial: Path, tensors: SafetensorsFolder, family: Family) -> None:
    """Keep the headers of the weights' files, and tensors that the model does not have of itself.

    Raises:
        CheckpointError: a tensor that no table knows.
    """
    (partial / _FOLDER).mkdir()
    for name in weight_files(source):
        (partial / _FOLDER / name).write_bytes(read_header(source / name))
    if (source / _INDEX).is_file():
        shutil.copyfile(source / _INDEX, partial / _FOLDER / _INDEX)
    extra = {}
    for name in _unknown(tensors, family):
        if name == HEAD and family.tied_embeddings:
            if not torch.equal(bits(tensors.read_whole(HEAD)), bits(tensors.read_whole(EMBEDDING))):
                raise CheckpointError(f"{source}: config.json ties the embeddings, but {HEAD} is not {EMBEDDING}")
        elif name.endswith(".rotary_emb.inv_freq"):  # older files hold what is computed from config.json
            extra[name] = tensors.read_whole(name)
        else:
            raise CheckpointError(f"{source}: tensor {name} is not one that a {family.name} model has")
    if extra:
        save_file(extra, partial / _EXTRA)


def _unknown(tensors: SafetensorsFolder, family: Family) -> list[str]:
    known = hf_sizes(family.rows, family.shape(tp=1))
    return [name for name in tensors.names() if name not in known]


def kept_headers(source: Path, view: HfView, dtype: torch.dtype | None) -> dict[str, bytes]:
    """The headers of the files to write: those that were there before the conversion, or new ones.

    Raises:
        CheckpointError: one cannot be read.
    """
    if dtype is None and (source / _FOLDER).is_dir():
        paths = sorted((source / _FOLDER).glob("*.safetensors"))
        for path in paths:
            refuse_foreign_file(source, path)
        return {path.name: read_bytes(path, CheckpointError) for path in paths}
    entries = [Entry(name, dtype or view.dtype(name), tuple(size)) for name, size in view.sizes.items()]
    return {name: make_header(part) for name, part in divide(entries, 4 << 30).items()}


def write_hf_index(source: Path, target: Path, headers: dict[str, bytes], dtype: torch.dtype | None) -> None:
    """Write the index of files with these headers into the folder `target`, if it has one."""
    kept = source / _FOLDER / _INDEX
    if dtype is None and kept.is_file():
        refuse_foreign_file(source, kept)
        shutil.copyfile(kept, target / _INDEX)
    elif len(headers) > 1:
        index = make_index({name: entries_of(head) for name, head in headers.items()})
        (target / _INDEX).write_text(index, encoding="utf-8")


def kept_extra(source: Path) -> dict[str, Tensor]:
    """Tensors that were kept beside those of the model.

    Raises:
        CheckpointError: they cannot be read.
    """
    if not (source / _EXTRA).is_file():
        return {}
    refuse_foreign_file(source, source / _EXTRA)
    try:
        return load_file(source / _EXTRA)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{one_line(source / _EXTRA)}: truncated or damaged ({one_line(error)[:300]})") from error


def bits(tensor: Tensor) -> Tensor:
    """A tensor's bytes, which are compared: NaN equals itself."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)
