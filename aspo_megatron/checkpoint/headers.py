"""What a converted checkpoint keeps of the files it was made of, so that they come back byte for byte."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from aspo_megatron.checkpoint.checked_json import shown
from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder, weight_files
from aspo_megatron.checkpoint.hf.safetensors_file import (
    Entry,
    divide,
    entries_of,
    make_header,
    make_index,
    read_header,
)
from aspo_megatron.checkpoint.hf_view import HfView
from aspo_megatron.checkpoint.usable import COMPUTED
from aspo_megatron.errors import CheckpointError
from aspo_megatron.folders import EXTRA_TENSORS, WEIGHTS_INDEX
from aspo_megatron.foreign_text import one_line
from aspo_megatron.models.folder_files import refuse_foreign_file
from aspo_megatron.reading import parse_json, read_bytes

_FOLDER = "headers"
_MOST_BESIDE, _MOST_OF_A_TENSOR = 16 << 20, 1 << 10
"""Bytes of what headers say besides tensors, and of a tensor."""

_MOST_EXTRA = 16 << 20


def keep_headers(source: Path, partial: Path, tensors: SafetensorsFolder) -> None:
    """Keep the headers of the weights' files, and what they hold that is computed from config.json.

    Raises:
        CheckpointError: a file cannot be read, or its header is too large to be read again.
    """
    (partial / _FOLDER).mkdir()
    left = _most_bytes(len(tensors.names()))
    for name in weight_files(source):
        header = read_header(source / name)
        left -= len(header)
        if left < 0:  # they could not be read again
            raise CheckpointError(f"{one_line(source / name)}: its header is too large for so few tensors")
        (partial / _FOLDER / name).write_bytes(header)
    if (source / WEIGHTS_INDEX).is_file():
        shutil.copyfile(source / WEIGHTS_INDEX, partial / _FOLDER / WEIGHTS_INDEX)
    extra = {name: tensors.read_whole(name) for name in tensors.names() if name.endswith(COMPUTED)}
    if extra:
        save_file(extra, partial / EXTRA_TENSORS)


def _most_bytes(tensors: int) -> int:
    """Bytes of the headers of all files of a model together: several times what any is known to have."""
    return _MOST_BESIDE + tensors * _MOST_OF_A_TENSOR


def kept_headers(
    source: Path, view: HfView, extra: Mapping[str, Tensor], dtype: torch.dtype | None
) -> dict[str, bytes]:
    """The headers of the files to write: those that were there before the conversion, or new ones.

    Args:
        source: the checkpoint.
        view: its tensors.
        extra: see `kept_extra`.
        dtype: what the files are to be of, if that is not what they were of.

    Raises:
        CheckpointError: one cannot be read, or they are not those of the model's tensors.
    """
    folder = source / _FOLDER
    if dtype is None and os.path.lexists(folder):
        refuse_foreign_file(source, folder)
        headers = _read_all(source, folder, _most_bytes(len(view.sizes) + len(extra)))
        _check_names(folder, headers, view, extra)
        return headers
    entries = [Entry(name, dtype or view.dtype(name), tuple(size)) for name, size in view.sizes.items()]
    return {name: make_header(part) for name, part in divide(entries, 4 << 30).items()}


def _read_all(source: Path, folder: Path, most_bytes: int) -> dict[str, bytes]:
    """The headers in a folder of a checkpoint; the sizes of all are looked at before one is read.

    Raises:
        CheckpointError: one cannot be read, or they are larger together.
    """
    paths = sorted(folder.glob("*.safetensors"))
    for path in paths:
        refuse_foreign_file(source, path)
    try:
        together = sum(path.stat().st_size for path in paths)
    except OSError as error:
        raise CheckpointError(f"{one_line(error.filename)}: cannot be read: {error.strerror}") from error
    if together > most_bytes:
        raise CheckpointError(f"{one_line(folder)}: its headers are larger than those of the model's tensors")
    headers = {}
    for path in paths:  # which may be larger by now
        headers[path.name] = read_bytes(path, CheckpointError, most_bytes)
        most_bytes -= len(headers[path.name])
    return headers


def _check_names(folder: Path, headers: Mapping[str, bytes], view: HfView, extra: Mapping[str, Tensor]) -> None:
    """See that headers name each tensor of the model once, and no others but those that files may hold besides.

    Raises:
        CheckpointError: they do not.
    """
    named: set[str] = set()
    for file, header in headers.items():
        try:
            entries = entries_of(header)
        except CheckpointError as error:
            raise CheckpointError(f"{one_line(folder / file)}: {error}") from error
        for entry in entries:
            if entry.name in named or not (view.has(entry.name) or entry.name in extra):
                raise CheckpointError(
                    f"{one_line(folder / file)}: tensor {shown(entry.name)} appears twice, or is unknown"
                )
            named.add(entry.name)
    lacking = view.sizes.keys() - named
    if lacking:
        raise CheckpointError(f"{one_line(folder)}: tensor {min(lacking)} is in none of its headers")


def write_hf_index(source: Path, target: Path, headers: Mapping[str, bytes], dtype: torch.dtype | None) -> None:
    """Write the index of files with these headers into the folder `target`, if it has one.

    Raises:
        CheckpointError: the one of before the conversion cannot be read, or is not theirs.
    """
    kept = source / _FOLDER / WEIGHTS_INDEX
    if dtype is None and os.path.lexists(kept):
        refuse_foreign_file(source, kept)
        content = read_bytes(kept, CheckpointError)
        told = parse_json(content, one_line(kept), CheckpointError)
        where = told.get("weight_map") if isinstance(told, dict) else None
        files = {entry.name: file for file, header in headers.items() for entry in entries_of(header)}
        if not isinstance(where, dict) or any(files.get(name) != file for name, file in where.items()):
            raise CheckpointError(f"{one_line(kept)}: does not match the headers beside it")
        (target / WEIGHTS_INDEX).write_bytes(content)
    elif len(headers) > 1:
        index = make_index({name: entries_of(head) for name, head in headers.items()})
        (target / WEIGHTS_INDEX).write_text(index, encoding="utf-8")


def kept_extra(source: Path) -> dict[str, Tensor]:
    """Tensors that were kept beside those of the model.

    Raises:
        CheckpointError: they cannot be read, or are the model's own.
    """
    path = source / EXTRA_TENSORS
    if not os.path.lexists(path):
        return {}
    refuse_foreign_file(source, path)
    if path.stat().st_size > _MOST_EXTRA:
        raise CheckpointError(f"{one_line(path)}: larger than what is kept beside a model's tensors")
    try:
        found: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{one_line(path)}: truncated or damaged ({one_line(str(error)[:300])})") from error
    for name in found:
        if not name.endswith(COMPUTED):
            raise CheckpointError(f"{one_line(path)}: tensor {shown(name)} is not one that is kept beside a model's")
    return found
