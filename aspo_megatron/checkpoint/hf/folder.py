"""Hugging Face folders, streamed: tensors are read in slices and written shard by shard, never a whole model."""

from __future__ import annotations

import hashlib
import json
import os
import reprlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from aspo_megatron.checkpoint.checked_json import shown
from aspo_megatron.checkpoint.hf.safetensors_file import small_headers
from aspo_megatron.errors import CheckpointError
from aspo_megatron.folders import WEIGHTS_INDEX
from aspo_megatron.foreign_text import one_line
from aspo_megatron.models.family import read_family
from aspo_megatron.models.folder_files import (
    MARK,
    TOKENIZER_TEXTS,
    begins_with_mark,
    is_plain_name,
    refuse_foreign_file,
)
from aspo_megatron.models.mapping import hf_sizes
from aspo_megatron.reading import read_json

_SINGLE = "model.safetensors"
_TOKENIZER_FILES = (*TOKENIZER_TEXTS, "tokenizer.model", "generation_config.json")


class SafetensorsFolder:
    """The tensors of a Hugging Face folder, read by name and slice. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        """Open every file of the folder and read their headers.

        Raises:
            CheckpointError: none there, a file of the index is missing, truncated or damaged, or a tensor is in two.
        """
        self._files: dict[str, Any] = {}
        self._where: dict[str, str] = {}
        self._folder = folder
        for file in small_headers(folder, weight_files(folder)):
            try:
                opened = safe_open(folder / file, framework="pt")
                names = opened.keys()
            except (SafetensorError, OSError) as error:
                raise CheckpointError(
                    f"{one_line(folder / file)}: truncated or damaged ({one_line(str(error)[:300])}); "
                    "copy or download the file again"
                ) from error
            twice = self._where.keys() & names
            if twice:
                raise CheckpointError(f"{one_line(folder / file)}: tensor {shown(min(twice))} is in another file, too")
            self._files[file] = opened
            self._where.update(dict.fromkeys(names, file))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._files.clear()

    def names(self) -> list[str]:
        """Names of all tensors."""
        return list(self._where)

    def path_of(self, name: str) -> Path:
        """The file that a tensor is in."""
        return self._folder / self._where[name]

    def shape(self, name: str) -> list[int]:
        """Shape of a tensor."""
        shape: list[int] = self._slice(name).get_shape()
        return shape

    def dtype(self, name: str) -> str:
        """Precision of a tensor, as its file has it."""
        return str(self._slice(name).get_dtype())

    def read(self, name: str, dim: int, start: int, stop: int) -> Tensor:
        """Rows start..stop of a tensor along dim 0 or 1; only they are read from the file."""
        view = self._slice(name)
        size = view.get_shape()[dim]
        if stop > size:
            raise CheckpointError(
                f"{self._folder}: tensor {shown(name)} has size {size} along dim {dim}, "
                f"config.json asks for at least {stop}"
            )
        part: Tensor = view[start:stop] if dim == 0 else view[:, start:stop]
        return part

    def read_whole(self, name: str) -> Tensor:
        """A whole tensor."""
        self._slice(name)
        tensor: Tensor = self._files[self._where[name]].get_tensor(name)
        return tensor

    def _slice(self, name: str) -> Any:
        if name not in self._where:
            raise CheckpointError(f"{self._folder}: tensor {name} is missing from its safetensors files")
        return self._files[self._where[name]].get_slice(name)


class RandomTensors:
    """Random weights for a `config.json`: the same for a seed in every layout, since each tensor has its own seed."""

    def __init__(self, shapes: dict[str, tuple[int, ...]], std: float, seed: int) -> None:
        """`shapes`: by Hugging Face name. Matrices are normal with standard deviation `std`, norms 1, biases 0."""
        self._shapes, self._std, self._seed = shapes, std, seed

    def read(self, name: str, dim: int, start: int, stop: int) -> Tensor:
        """Rows start..stop of a tensor along `dim`."""
        return self.read_whole(name).narrow(dim, start, stop - start)

    def read_whole(self, name: str) -> Tensor:
        """A whole tensor, fp32."""
        shape = self._shapes[name]
        if name.endswith(".bias"):
            return torch.zeros(shape)
        if len(shape) == 1:
            return torch.ones(shape)
        seed = int.from_bytes(hashlib.sha256(f"{self._seed}:{name}".encode()).digest()[:7], "big")
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * self._std


def hf_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that the folder's config.json asks for, by Hugging Face name."""
    family = read_family(folder)
    return hf_sizes(family.rows, family.shape(tp=1))


def write_folder(
    folder: Path,
    tensors: Iterator[tuple[str, Tensor]],
    config: dict[str, Any],
    tokenizer_from: Path,
    max_shard_bytes: int = 4 << 30,
    card: str | None = None,
    replace: bool = False,
) -> None:
    """Write a Hugging Face folder, beside its final place first, so that a half-written one never bears its name.

    Args:
        folder: must not exist, unless `replace`.
        tensors: by name, one at a time.
        config: the content of config.json.
        tokenizer_from: folder whose tokenizer, chat template and generation config are copied.
        max_shard_bytes: size of a weights file, and of the tensors held at a time.
        card: the content of README.md.
        replace: let the new folder take the place of an old one, once it is complete.

    Raises:
        CheckpointError: the folder exists, or writing failed (full disk); nothing is left behind then.
    """
    if folder.exists() and not replace:
        raise CheckpointError(f"{folder} exists already; choose another place or remove it")
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        _write_weights(partial, tensors, max_shard_bytes)
        (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        for name in _TOKENIZER_FILES:
            if (tokenizer_from / name).is_file():
                refuse_foreign_file(tokenizer_from, tokenizer_from / name)
                _copy(tokenizer_from / name, partial / name)
        if card is not None:
            (partial / "README.md").write_text(card, encoding="utf-8")
        if folder.exists():
            shutil.rmtree(folder)
        partial.rename(folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(f"{folder}: could not be written ({error})") from error


def _copy(source: Path, target: Path) -> None:
    """Copy a file; one that begins with a byte order mark, which was read here, is written for those who cannot."""
    if begins_with_mark(source):
        target.write_bytes(source.read_bytes().removeprefix(MARK))
    else:
        shutil.copyfile(source, target)


def _write_weights(folder: Path, tensors: Iterator[tuple[str, Tensor]], max_shard_bytes: int) -> None:
    weight_map: dict[str, str] = {}
    files: list[Path] = []
    shard: dict[str, Tensor] = {}
    held = total = 0

    def flush() -> None:
        nonlocal held
        if shard:
            files.append(folder / f"part-{len(files)}.safetensors")
            save_file(shard, files[-1], metadata={"format": "pt"})
            weight_map.update(dict.fromkeys(shard, str(len(files) - 1)))
            shard.clear()
            held = 0

    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if held + size > max_shard_bytes:
            flush()
        # A copy: the tensor may be a view of a live parameter.
        shard[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        held += size
        total += size
    flush()
    if len(files) == 1:
        files[0].rename(folder / _SINGLE)
        return
    final = [f"model-{i + 1:05d}-of-{len(files):05d}.safetensors" for i in range(len(files))]
    for file, name in zip(files, final, strict=True):
        file.rename(folder / name)
    index = {
        "metadata": {"total_size": total},
        "weight_map": {name: final[int(number)] for name, number in weight_map.items()},
    }
    (folder / WEIGHTS_INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


def weight_files(folder: Path) -> list[str]:
    """Names of the safetensors files of a Hugging Face folder."""
    files = _files_of_index(folder) if (folder / WEIGHTS_INDEX).is_file() else [_SINGLE]
    for file in files:
        if not os.path.isfile(folder / file):
            others = [path.name for path in folder.glob("*.bin")] + [path.name for path in folder.glob("*.gguf")]
            told = one_line(", ".join(sorted(others)))
            hint = f"; it holds {told}, which must be converted to safetensors first" if others else ""
            raise CheckpointError(f"{folder}: {shown(file)} is missing{hint}")
        refuse_foreign_file(folder, folder / file)
    return files


def _files_of_index(folder: Path) -> list[str]:
    refuse_foreign_file(folder, folder / WEIGHTS_INDEX)
    content = read_json(folder / WEIGHTS_INDEX, CheckpointError)
    told = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(told, dict) or not told:
        raise CheckpointError(f"{folder / WEIGHTS_INDEX}: not a safetensors index: its weight_map is missing")
    for file in told.values():
        if not is_plain_name(file) or not str(file).endswith(".safetensors"):
            named = one_line(reprlib.repr(file))
            raise CheckpointError(
                f"{folder / WEIGHTS_INDEX}: {named} is missing: not the name of a safetensors file in the folder"
            )
    return sorted(set(told.values()))
