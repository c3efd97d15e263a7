"""Hugging Face folders to megatron distributed checkpoints of any layout, and back, a tensor at a time."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from aspo_megatron.checkpoint.headers import keep_headers, kept_extra, kept_headers, write_hf_index
from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder
from aspo_megatron.checkpoint.hf.safetensors_file import Entry, write_file
from aspo_megatron.checkpoint.hf_view import HfView
from aspo_megatron.checkpoint.torch_dist.manifest import (
    FileEntry,
    describe,
    model_identity,
    read_manifest,
    write_manifest,
)
from aspo_megatron.checkpoint.torch_dist.reader import TorchDistReader
from aspo_megatron.checkpoint.torch_dist.shard_layout import Place, places_by_rank
from aspo_megatron.checkpoint.torch_dist.sidecar import copy_sidecar, sidecar_files
from aspo_megatron.checkpoint.torch_dist.tensor_names import checkpoint_keys
from aspo_megatron.checkpoint.torch_dist.verification import verified_meanwhile
from aspo_megatron.checkpoint.torch_dist.writer import TensorPiece, TorchDistWriter, without_crc, write_index
from aspo_megatron.checkpoint.usable import bits, usable_model, usable_weights
from aspo_megatron.config import ParallelConfig
from aspo_megatron.errors import CheckpointError
from aspo_megatron.files import to_disk
from aspo_megatron.folders import SIDECAR
from aspo_megatron.models.family import Family, read_family
from aspo_megatron.models.mapping import ModelShape, import_shard

_WRITERS = 4
"""Ranks' files written at the same time, each with a tensor in memory."""

OnBytes = Callable[[int], None]
"""Called with the number of bytes that are done, each time some are."""


def converter_layout(
    family: Family,
    *,
    tp: int = 1,
    pp: int = 1,
    vpp: int = 1,
    ep: int = 1,
    etp: int | None = None,
    pp_layers: Sequence[int] | None = None,
) -> ParallelConfig:
    """The layout that a checkpoint is written for, with as few replicas as hold all experts.

    Raises:
        UserError: the model cannot be split so; names the axis.
    """
    experts = ep * (etp or tp)
    try:
        parallel = ParallelConfig(
            tp=tp,
            pp=pp,
            vpp=vpp,
            ep=ep,
            etp=etp,
            pp_layers=None if pp_layers is None else tuple(pp_layers),
            dp=math.lcm(tp, experts) // tp,
            sequence_parallel=family.num_experts > 0 and tp > 1,
        )
    except ValueError as error:
        raise CheckpointError(f"layout: {str(error).splitlines()[-1]}") from error
    family.check_layout(parallel)
    shape = family.shape(tp)
    for row in family.rows:
        ranks = parallel.expert_tp if row.per_expert else tp
        if row.dim is not None and sum(each.size for each in row.order(shape, ranks)) % ranks:
            raise CheckpointError(f"layout: {ranks} ranks cannot share {row.megatron} in equal parts")
    return parallel


def hf_to_megatron(
    source: Path, target: Path, parallel: ParallelConfig, dtype: torch.dtype | None, on_bytes: OnBytes
) -> None:
    """Write a megatron distributed checkpoint of a Hugging Face folder.

    Args:
        source: Hugging Face folder with safetensors weights.
        target: must not exist.
        parallel: the layout, see `converter_layout`; each of its ranks gets a file of its own.
        dtype: precision of the checkpoint; None keeps that of every tensor.
        on_bytes: called with the number of bytes read.

    Raises:
        UserError: the source cannot be used, see `usable_weights`, or the target cannot be written.
    """
    family = usable_weights(source)
    with _written_beside(target) as partial, SafetensorsFolder(source) as tensors, without_crc():
        copy_sidecar(source, partial)
        if dtype is None:
            keep_headers(source, partial, tensors)
        else:
            _note_dtype(partial / SIDECAR / "config.json", family, dtype)
        shape = family.shape(parallel.tp)
        pieces: list[TensorPiece] = []
        entries: dict[str, FileEntry] = {}

        def write_rank(task: tuple[int, list[Place]]) -> TorchDistWriter:
            rank, places = task
            with TorchDistWriter(partial, rank) as writer:
                for place in places:
                    _write_place(writer, place, tensors, shape, dtype, on_bytes)
            return writer

        with ThreadPoolExecutor(max_workers=min(_WRITERS, os.cpu_count() or 1)) as pool:
            for writer in pool.map(write_rank, places_by_rank(family, parallel)):
                pieces += writer.pieces
                entries[writer.name] = writer.entry
        entries |= write_index(partial, pieces)
        layout = parallel.model_dump(mode="json")
        files = describe(partial, entries)
        write_manifest(partial, model_identity(family.hf_config), family.name, layout, files)


def megatron_to_hf(source: Path, target: Path, dtype: torch.dtype | None, on_bytes: OnBytes) -> None:
    """Write the Hugging Face folder of a megatron checkpoint: a converted one, or the state of a run.

    A folder that was converted without another precision comes back byte for byte.

    Args:
        source: a checkpoint with a manifest.
        target: must not exist.
        dtype: precision of the weights; None keeps that of every tensor.
        on_bytes: called with the number of bytes written.

    Raises:
        UserError: the checkpoint is damaged or holds no model that can be used, or the target cannot be written.
    """
    manifest = read_manifest(source)
    with (
        _written_beside(target) as partial,
        verified_meanwhile(source, manifest),
        TorchDistReader(source, family := usable_model(source / SIDECAR)) as reader,
    ):
        view = HfView(reader, family)
        for path in sidecar_files(source / SIDECAR):
            shutil.copyfile(path, partial / path.name)
        extra = kept_extra(source)
        headers = kept_headers(source, view, extra, dtype)
        if dtype is not None:
            _note_dtype(partial / "config.json", family, dtype)
        write_hf_index(source, partial, headers, dtype)

        def read(entry: Entry) -> list[Tensor]:
            parts = [extra[entry.name]] if entry.name in extra else view.read_parts(entry.name)
            return parts if dtype is None else [part.to(dtype) for part in parts]

        for name, header in headers.items():
            write_file(partial / name, header, read, on_bytes)


def compare(hf_folder: Path, checkpoint: Path, dtype: torch.dtype | None, on_bytes: OnBytes) -> int:
    """Read every tensor of both again and compare them bit for bit; how many there are.

    `dtype`: what the conversion was asked for.

    Raises:
        CheckpointError: a tensor differs; names it.
    """
    family = read_family(hf_folder)
    with SafetensorsFolder(hf_folder) as tensors, TorchDistReader(checkpoint, family) as reader:
        view = HfView(reader, family)
        for name in view.sizes:
            one, other = tensors.read_whole(name), view.read_whole(name)
            if dtype is not None:
                one, other = one.to(dtype), other.to(dtype)
            if one.dtype != other.dtype or one.shape != other.shape or not torch.equal(bits(one), bits(other)):
                raise CheckpointError(f"tensor {name} differs between {hf_folder} and {checkpoint}")
            on_bytes(one.nbytes)
    return len(view.sizes)


def bytes_on_disk(folder: Path) -> int:
    """Size of the weights of a Hugging Face folder or of a checkpoint, as far as they are there, for progress bars."""
    hf = (folder / "config.json").is_file()
    return sum(path.stat().st_size for path in folder.glob("*.safetensors" if hf else "*.distcp") if path.is_file())


def _write_place(
    writer: TorchDistWriter, place: Place, source: SafetensorsFolder, shape: ModelShape, dtype: torch.dtype | None,
    on_bytes: OnBytes,
) -> None:  # fmt: skip
    row = place.row
    names = row.hf_names(place.layer, place.expert)
    keys = checkpoint_keys(row, place.layer, place.expert)
    if len(keys) == 1:
        parts = [import_shard(row, names, source, shape, place.ranks, place.rank)]
    else:  # gate and up, which are a tensor each here
        sizes = [size[0] // place.ranks for size in row.sizes(shape)]
        starts = [size * place.rank for size in sizes]
        parts = [
            source.read(name, 0, start, start + size) for name, start, size in zip(names, starts, sizes, strict=True)
        ]
    for key, read in zip(keys, parts, strict=True):
        on_bytes(read.nbytes)
        part = read if dtype is None else read.to(dtype)
        whole, offset = list(part.shape), [0] * part.dim()
        if row.dim is not None:
            whole[row.dim] *= place.ranks
            offset[row.dim] = part.shape[row.dim] * place.rank
        writer.write(key, part, whole, offset)


def _note_dtype(path: Path, family: Family, dtype: torch.dtype) -> None:
    config = family.exported_config(str(dtype).removeprefix("torch."))
    path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _written_beside(target: Path) -> Iterator[Path]:
    """A folder that gets the name `target` when the block is done; nothing is left of it otherwise.

    Raises:
        CheckpointError: `target` exists, or could not be written.
    """
    if target.exists():
        raise CheckpointError(f"{target} exists already; choose another place or remove it")
    partial = target.with_name(target.name + ".partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        partial.rename(target)
        to_disk(target.parent)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise CheckpointError(f"{target}: could not be written ({error.strerror or error})") from error
        raise
