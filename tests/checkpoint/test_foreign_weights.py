"""Weights of somebody else, in a model folder or kept in a checkpoint: refused in a plain line where they are none."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save, save_file
from torch import Tensor
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    MetadataIndex,
    TensorProperties,
    TensorStorageMetadata,
)

from aspo_megatron.checkpoint.convert import converter_layout, hf_to_megatron, megatron_to_hf
from aspo_megatron.checkpoint.hf_view import HfView
from aspo_megatron.checkpoint.torch_dist.reader import TorchDistReader
from aspo_megatron.checkpoint.usable import usable_weights
from aspo_megatron.errors import CheckpointError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.models.family import read_family
from tiny_models import llama_folder

from .hostile import saved, sign, sparse, torch_index

WEIGHT = "model.layers.1.mlp.down_proj.weight"


def refused(read: Callable[[], object], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason) as error:
        read()
    assert one_line(error.value) == str(error.value)
    assert len(str(error.value)) < 1500


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_folder(tmp_path_factory.mktemp("model") / "llama", tied=False)


@pytest.fixture(scope="module")
def converted(model: Path) -> Path:
    folder = model.parent / "converted"
    hf_to_megatron(model, folder, converter_layout(read_family(model), tp=2), None, lambda _: None)
    return folder


def written(change: Callable[[dict[str, Tensor]], object]) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return spoil


def in_two(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({WEIGHT: tensors[WEIGHT] * 0}, folder / "other.safetensors")
    files = dict.fromkeys(tensors, "model.safetensors") | {"other": "other.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


def index_of(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))


def many_tensors(folder: Path) -> None:
    """A header of half a million tensors without elements."""
    empty = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = ("{" + ",".join(f'"{number:07}":{empty}' for number in range(600_000)) + "}").encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)


FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    **{
        f"weights of {dtype}": (
            written(lambda all, dtype=dtype: all.update({WEIGHT: all[WEIGHT].to(dtype)})),  # type: ignore[misc]
            "but weights are floating-point numbers",
        )
        for dtype in (torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64)
    },
    "many tensors": (many_tensors, r"model\.safetensors: the headers up to this file's are larger than 32 MiB"),
    "a tensor in two files": (in_two, "is in another file, too"),
    "a file's name that turns text": (index_of("\x1b[31m.safetensors"), "is missing"),
    "a file's long name": (index_of("x" * 3000 + ".safetensors"), "is missing"),
}


@pytest.mark.parametrize("kind", FOLDERS)
def test_a_model_folder(model: Path, tmp_path: Path, kind: str) -> None:
    spoil, reason = FOLDERS[kind]
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    usable_weights(folder)
    spoil(folder)
    refused(lambda: usable_weights(folder), reason)


def test_a_name_of_a_tensor_is_shown_short_and_plain(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    written(lambda all: all.update({"\x1b[31m\n" + "x" * 10**5: torch.ones(1)}))(folder)
    layout = converter_layout(read_family(folder), tp=1)
    refused(lambda: hf_to_megatron(folder, tmp_path / "out", layout, None, lambda _: None), "is not one that")


# ---- in a checkpoint ------------------------------------------------------------------------------------------------


def piece(end: str, change: Callable[[Tensor], Tensor]) -> Callable[[Path], object]:
    """One whole piece of other elements for a tensor, as the index says."""

    def spoil(folder: Path) -> None:
        metadata = torch_index(folder)
        key = next(key for key in metadata.state_dict_metadata if key.endswith(end))
        with TorchDistReader(folder, read_family(folder / "hf")) as reader:
            tensor = change(reader.read(key).clone())
        for old in [old for old in metadata.storage_data if old.fqn == key]:
            del metadata.storage_data[old]
        data, content, start = folder / "__0_0.distcp", saved(tensor), torch.Size([0] * tensor.dim())
        place = _StorageInfo(data.name, data.stat().st_size, len(content))
        metadata.storage_data[MetadataIndex(key, start, 0)] = place
        chunks = [ChunkStorageMetadata(start, tensor.shape)]
        told = TensorStorageMetadata(TensorProperties(tensor.dtype), tensor.shape, chunks)
        metadata.state_dict_metadata[key] = told
        with data.open("ab") as file:
            file.write(content)
        (folder / ".metadata").write_bytes(pickle.dumps(metadata))

    return spoil


def header(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        path = folder / "headers" / "model.safetensors"
        told = json.loads(path.read_bytes())
        change(told)
        path.write_text(json.dumps(told))

    return spoil


def extra(content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / "extra.safetensors").write_bytes(content)


def elsewhere(folder: Path) -> None:
    shutil.rmtree(folder / "headers")
    (folder / "headers").symlink_to("/etc")


def kept_index(name: str) -> Callable[[Path], object]:
    path = "headers/model.safetensors.index.json"
    return lambda folder: (folder / path).write_text(json.dumps({"weight_map": {WEIGHT: name}}))


QKV, DOWN = "layers.0.self_attention.linear_qkv.weight", "layers.1.mlp.linear_fc2.weight"
SHAPES: dict[str, tuple[Callable[[Path], object], str]] = {
    f"{end.split('.')[-2]} {kind}": (piece(end, change), "config.json asks for")
    for end in (QKV, DOWN, "embedding.word_embeddings.weight")
    for kind, change in {
        "without dimensions": lambda tensor: tensor.sum(),
        "flat": lambda tensor: tensor.reshape(-1),
        "with one more": lambda tensor: tensor[None].clone(),
        "empty": lambda tensor: tensor[:0].clone(),
    }.items()
}
TYPES: dict[str, tuple[Callable[[Path], object], str]] = {
    f"weights of {dtype}": (
        piece(DOWN, lambda tensor, dtype=dtype: tensor.to(dtype)),  # type: ignore[misc]
        "but weights are floating-point numbers",
    )
    for dtype in (torch.int64, torch.int16, torch.bool, torch.complex64)
}
KEPT: dict[str, tuple[Callable[[Path], object], str]] = {
    "a damaged extra file": (extra(b"xx"), "extra.safetensors: truncated or damaged"),
    "a pipe": (lambda folder: os.mkfifo(folder / "extra.safetensors"), "not a regular file"),
    "a model's weight beside it": (extra(save({WEIGHT: torch.ones(48, 72)})), "is not one that is kept"),
    "headers elsewhere": (elsewhere, "a link out of the model folder"),
    "headers that lack a tensor": (header(lambda told: told.clear()), "is in none of its headers"),
    "a header that is there twice": (
        lambda folder: shutil.copyfile(folder / "headers/model.safetensors", folder / "headers/x.safetensors"),
        "appears twice",
    ),
    "a header in another encoding": (
        lambda folder: (folder / "headers/model.safetensors").write_bytes("{}".encode("utf-16")),
        "not the header",
    ),
    "headers larger than any": (
        lambda folder: [sparse(f"headers/x{number}.safetensors", 6 << 20)(folder, folder) for number in range(3)],
        "headers: its headers are larger than those of the model's tensors",
    ),
    "a header of many values": (
        lambda folder: (folder / "headers/a.safetensors").write_bytes(b'{"a":[' + b"{}," * 3_000_000 + b"{}]}"),
        r"headers/a\.safetensors: not the header of a safetensors file: JSON of more than 4,194,304 values",
    ),
    "more beside the weights than any": (
        extra(save({"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(5 << 20)})),
        r"extra\.safetensors: larger than what is kept beside",
    ),
    "an index that leads out": (kept_index("../../x.safetensors"), "does not match the headers"),
    "an index of no end": (
        lambda folder: ((folder / "headers/model.safetensors.index.json").touch(),
                        os.truncate(folder / "headers/model.safetensors.index.json", 1 << 40)),
        "larger than 64 MiB",
    ),
    "another sign": (piece(DOWN, torch._neg_view), "as its elements are"),
}  # fmt: skip
CHECKPOINTS = SHAPES | TYPES | KEPT


@pytest.mark.parametrize("kind", CHECKPOINTS)
def test_a_checkpoint(converted: Path, tmp_path: Path, kind: str) -> None:
    spoil, reason = CHECKPOINTS[kind]
    folder = Path(shutil.copytree(converted, tmp_path / "checkpoint"))
    spoil(folder)
    if kind not in ("a pipe", "headers elsewhere"):
        if kind == "an index of no end":  # whose checksum would take long
            (folder / "headers/model.safetensors.index.json").rename(tmp_path / "index")
        sign(folder)
        if (tmp_path / "index").exists():
            (tmp_path / "index").rename(folder / "headers/model.safetensors.index.json")
    else:
        told = json.loads((folder / "manifest.json").read_text())
        assert told["files"]
        if kind == "headers elsewhere":
            (folder / "headers").unlink()
            sign(folder)
            (folder / "headers").symlink_to("/etc")
    refused(lambda: megatron_to_hf(folder, tmp_path / "back", None, lambda _: None), reason)
    assert not list(tmp_path.glob("back*"))
    if kind in SHAPES | TYPES:
        with TorchDistReader(folder, read_family(folder / "hf")) as reader:
            refused(lambda: HfView(reader, read_family(folder / "hf")), reason)


def test_headers_that_could_not_be_read_again_are_not_kept(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt", "note": "x" * (17 << 20)})
    layout = converter_layout(read_family(folder), tp=1)
    refused(lambda: hf_to_megatron(folder, tmp_path / "out", layout, None, lambda _: None), "its header is too large")


def test_an_output_layer_beside_tied_embeddings(converted: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(converted, tmp_path / "checkpoint"))
    path = folder / "hf" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "tie_word_embeddings": True}))
    family = read_family(folder / "hf")
    with TorchDistReader(folder, family) as reader:
        refused(lambda: HfView(reader, family), "output_layer.weight: config.json ties the embeddings")
