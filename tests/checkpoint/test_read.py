"""Reading safetensors: the right slices, and one clear line for every way in which a folder can be broken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder, hf_shapes
from aspo_megatron.checkpoint.usable import usable_weights
from aspo_megatron.errors import CheckpointError

Damage = Callable[[Path], object]


def shard(folder: Path) -> None:
    """Spread the single file over three, with an index."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    weight_map = {name: f"model-{i % 3 + 1:05d}-of-00003.safetensors" for i, name in enumerate(sorted(tensors))}
    for file in set(weight_map.values()):
        own = {name: tensor for name, tensor in tensors.items() if weight_map[name] == file}
        save_file(own, folder / file, metadata={"format": "pt"})
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize("sharded", [False, True])
def test_slices_are_those_of_the_whole_tensors(folder: Path, sharded: bool) -> None:
    expected = load_file(folder / "model.safetensors")
    if sharded:
        shard(folder)
    usable_weights(folder)
    with SafetensorsFolder(folder) as source:
        assert sorted(source.names()) == sorted(expected)
        for name, tensor in expected.items():
            assert source.shape(name) == list(tensor.shape)
            assert torch.equal(source.read_whole(name), tensor)
            for dim in range(tensor.dim()):
                size = tensor.size(dim)
                for start, stop in ((0, size), (1, size // 2), (size - 1, size), (0, 0)):
                    assert torch.equal(source.read(name, dim, start, stop), tensor.narrow(dim, start, stop - start))


def test_the_dtype_of_the_file_is_kept(folder: Path) -> None:
    tensors = {name: tensor.bfloat16() for name, tensor in load_file(folder / "model.safetensors").items()}
    save_file(tensors, folder / "model.safetensors")
    with SafetensorsFolder(folder) as source:
        assert source.read("model.norm.weight", 0, 3, 9).dtype == torch.bfloat16


def test_shapes_by_config_are_those_of_the_file(pristine: Path) -> None:
    tensors = load_file(pristine / "model.safetensors")
    assert hf_shapes(pristine) == {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def test_tensors_beyond_those_of_the_config_do_no_harm(folder: Path) -> None:
    """Old files hold rotary frequencies, and tied models sometimes their output projection."""
    tensors = load_file(folder / "model.safetensors")
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_file(tensors, folder / "model.safetensors")
    usable_weights(folder)


# ---- broken folders --------------------------------------------------------------------------------------------


def cut(keep: Callable[[int], int]) -> Damage:
    """Keep only the file's first bytes."""

    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        data = path.read_bytes()
        path.write_bytes(data[: keep(len(data))])

    return damage


def overwrite(data: bytes) -> Damage:
    return lambda folder: (folder / "model.safetensors").write_bytes(data)


def change(edit: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """Write the file anew with other tensors."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        edit(tensors)
        save_file(tensors, folder / "model.safetensors")

    return damage


def sharded(break_: Damage) -> Damage:
    def damage(folder: Path) -> None:
        shard(folder)
        break_(folder)

    return damage


KEY = "model.layers.1.self_attn.k_proj.weight"
INDEX = "model.safetensors.index.json"
SECOND = "model-00002-of-00003.safetensors"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"

BROKEN: dict[str, tuple[Damage, str]] = {
    "no file": (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
    "empty file": (overwrite(b""), "model.safetensors: truncated or damaged"),
    "cut in the length": (cut(lambda size: 5), "model.safetensors: truncated or damaged"),
    "cut in the header": (cut(lambda size: 300), "model.safetensors: truncated or damaged"),
    "cut in the middle": (cut(lambda size: size // 2), "model.safetensors: truncated or damaged"),
    "last byte lost": (cut(lambda size: size - 1), "model.safetensors: truncated or damaged"),
    "zeros": (overwrite(bytes(4096)), "model.safetensors: truncated or damaged"),
    "garbage": (overwrite(bytes(range(256)) * 64), "model.safetensors: truncated or damaged"),
    "pointer of Git LFS": (overwrite(LFS_POINTER), "model.safetensors: truncated or damaged"),
    "tensor missing": (change(lambda tensors: tensors.pop(KEY)), f"tensor {KEY} is missing"),
    "wrong shape": (change(lambda t: t.update({KEY: t[KEY][:-1].clone()})), f"tensor {KEY} has shape"),
    "wrong rank": (change(lambda t: t.update({KEY: t[KEY].flatten()})), f"tensor {KEY} has shape"),
    "shard missing": (sharded(lambda folder: (folder / SECOND).unlink()), f"{SECOND} is missing"),
    "shard truncated": (
        sharded(lambda folder: (folder / SECOND).write_bytes((folder / SECOND).read_bytes()[:-100])),
        f"{SECOND}: truncated or damaged",
    ),
    "index cut": (sharded(lambda folder: (folder / INDEX).write_text('{"weight_map": {')), INDEX),
    "index without a map": (sharded(lambda folder: (folder / INDEX).write_text('{"metadata": {}}')), INDEX),
    "index is a list": (sharded(lambda folder: (folder / INDEX).write_text("[]")), INDEX),
    "index names numbers": (
        sharded(lambda folder: (folder / INDEX).write_text('{"weight_map": {"a": 1}}')),
        "1 is missing",
    ),
    "index names nothing": (sharded(lambda folder: (folder / INDEX).write_text('{"weight_map": {}}')), "is missing"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_folder_is_one_line_that_names_the_file_or_tensor(folder: Path, name: str) -> None:
    damage, words = BROKEN[name]
    damage(folder)
    with pytest.raises(CheckpointError) as caught:
        usable_weights(folder)
    assert words in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model-q8_0.gguf"])
def test_weights_of_another_format_are_named(folder: Path, file: str) -> None:
    (folder / "model.safetensors").rename(folder / file)
    with pytest.raises(CheckpointError, match=f"holds {file}, which must be converted to safetensors"):
        usable_weights(folder)


def test_reading_past_the_end_names_the_tensor_and_both_sizes(pristine: Path) -> None:
    with (
        SafetensorsFolder(pristine) as source,
        pytest.raises(CheckpointError, match=r"model\.norm\.weight has size 48 along dim 0.* at least 49"),
    ):
        source.read("model.norm.weight", 0, 40, 49)


def test_a_tensor_that_is_not_there_is_named(pristine: Path) -> None:
    with SafetensorsFolder(pristine) as source:
        with pytest.raises(CheckpointError, match=r"tensor no\.such is missing"):
            source.read("no.such", 0, 0, 1)
        with pytest.raises(CheckpointError, match=r"tensor no\.such is missing"):
            source.read_whole("no.such")
