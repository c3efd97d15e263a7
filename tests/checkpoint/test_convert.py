"""Conversion there and back, for each family and layout: the files come back byte for byte."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from aspo_megatron.checkpoint.convert import compare, converter_layout, hf_to_megatron, megatron_to_hf
from aspo_megatron.checkpoint.torch_dist.reader import TorchDistReader
from aspo_megatron.errors import CheckpointError, UserError
from aspo_megatron.models.family import read_family
from tiny_models import llama_folder, qwen2_folder, qwen3_folder, qwen3_moe_folder

MODELS: dict[str, Callable[[Path], Path]] = {
    "llama": lambda path: llama_folder(path, tied=True, num_hidden_layers=4),
    "llama-untied": lambda path: llama_folder(path, tied=False, num_hidden_layers=4),
    "qwen2": lambda path: qwen2_folder(path, tied=False, num_hidden_layers=4),
    "qwen3": lambda path: qwen3_folder(path, tied=True, num_hidden_layers=4),
    "qwen3-moe": lambda path: qwen3_moe_folder(path, num_hidden_layers=4),
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "single": {},
    "tp2": {"tp": 2},
    "tp12 of 6 kv heads": {"tp": 12},
    "pp2": {"pp": 2},
    "pp3-uneven": {"pp": 3, "pp_layers": [2, 1, 1]},
    "tp2-pp2": {"tp": 2, "pp": 2},
    "pp2-vpp2": {"pp": 2, "vpp": 2},
    "ep2": {"ep": 2},
    "tp2-ep2-etp1": {"tp": 2, "ep": 2, "etp": 1},
    "tp2-ep4": {"tp": 2, "pp": 2, "ep": 4, "etp": 2},
}


def ignore(count: int) -> None:
    """No progress is shown here."""


@pytest.fixture(scope="module", params=MODELS)
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model in several files with an index, a tokenizer and a chat template."""
    folder = MODELS[request.param](tmp_path_factory.mktemp("source") / request.param)
    return in_parts(folder)


def in_parts(folder: Path) -> Path:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    halves = {"model-00001-of-00002.safetensors": names[::2], "model-00002-of-00002.safetensors": names[1::2]}
    for file, half in halves.items():
        save_file({name: tensors[name] for name in half}, folder / file, metadata={"format": "pt", "note": file})
    index = {
        "metadata": {"total_size": 1},
        "weight_map": {name: file for file, part in halves.items() for name in part},
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def convert(source: Path, target: Path, dtype: torch.dtype | None = None, **layout: Any) -> Path:
    hf_to_megatron(source, target, converter_layout(read_family(source), **layout), dtype, ignore)
    return target


PAIRS = [(model, row) for model in MODELS for row, options in LAYOUTS.items() if "ep" not in options or "moe" in model]


@pytest.mark.parametrize(("source", "layout"), PAIRS, indirect=["source"])
def test_there_and_back_is_the_same_byte_for_byte(source: Path, tmp_path: Path, layout: str) -> None:
    options = LAYOUTS[layout]
    convert(source, tmp_path / "megatron", **options)
    assert (
        len(list((tmp_path / "megatron").glob("*.distcp")))
        == converter_layout(read_family(source), **options).world_size
    )
    assert compare(source, tmp_path / "megatron", None, ignore) > 10
    megatron_to_hf(tmp_path / "megatron", tmp_path / "back", None, ignore)
    assert contents(tmp_path / "back") == contents(source)
    assert {path.name for path in tmp_path.iterdir()} == {"megatron", "back"}


def test_another_precision(source: Path, tmp_path: Path) -> None:
    convert(source, tmp_path / "megatron", torch.bfloat16, tp=2)
    megatron_to_hf(tmp_path / "megatron", tmp_path / "back", None, ignore)
    want = {name: t for path in source.glob("*.safetensors") for name, t in load_file(path).items()}
    got = load_file(tmp_path / "back" / "model.safetensors")
    assert got.keys() == want.keys()
    assert all(torch.equal(got[name], want[name].to(torch.bfloat16)) for name in want)
    assert json.loads((tmp_path / "back" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return in_parts(llama_folder(tmp_path_factory.mktemp("small") / "llama", tied=True))


@pytest.fixture
def converted(small: Path, tmp_path: Path) -> Path:
    return convert(small, tmp_path / "megatron", tp=2)


def test_an_existing_folder_is_left_alone(small: Path, converted: Path) -> None:
    before = contents(converted)
    with pytest.raises(CheckpointError, match="exists already"):
        convert(small, converted)
    assert contents(converted) == before


def test_tied_embeddings_that_are_there_twice(small: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small, tmp_path / "twice"))
    part = folder / "model-00001-of-00002.safetensors"
    tensors = {name: t for path in folder.glob("*.safetensors") for name, t in load_file(path).items()}
    embedding = tensors["model.embed_tokens.weight"]
    save_file({**load_file(part), "lm_head.weight": embedding.clone()}, part, metadata={"format": "pt"})
    megatron_to_hf(convert(folder, tmp_path / "m"), tmp_path / "back", None, ignore)
    assert contents(tmp_path / "back") == contents(folder)
    save_file({**load_file(part), "lm_head.weight": embedding + 1}, part, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"lm_head\.weight is not model\.embed_tokens\.weight"):
        convert(folder, tmp_path / "m2")


def test_a_tensor_that_no_table_knows(small: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(small, tmp_path / "more"))
    part = folder / "model-00001-of-00002.safetensors"
    save_file({**load_file(part), "model.extra.weight": torch.ones(2)}, part, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"tensor model\.extra\.weight"):
        convert(folder, tmp_path / "m")
    assert {path.name for path in tmp_path.iterdir()} == {"more"}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def other_version(folder: Path) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "version": 99}))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (lambda folder: flip(folder / "__1_0.distcp"), r"__1_0\.distcp: damaged"),
    "truncated": (lambda folder: (folder / "__0_0.distcp").write_bytes(b"PK"), r"__0_0\.distcp: truncated"),
    "missing": (lambda folder: (folder / "__0_0.distcp").unlink(), r"__0_0\.distcp: missing"),
    "no manifest": (lambda folder: (folder / "manifest.json").unlink(), r"manifest\.json is missing"),
    "manifest cut": (lambda folder: (folder / "manifest.json").write_text('{"version'), r"manifest\.json: damaged"),
    "version": (other_version, r"format version 99; this installation reads 2 and 3"),
    "config": (lambda folder: flip(folder / "hf" / "config.json"), r"config\.json: damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_refused_with_the_file(converted: Path, tmp_path: Path, damage: str) -> None:
    spoil, message = DAMAGE[damage]
    spoil(converted)
    with pytest.raises(CheckpointError, match=message):
        megatron_to_hf(converted, tmp_path / "back", None, ignore)
    assert not list(tmp_path.glob("back*"))


class Hostile:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.path), "w"))


def test_an_index_that_would_act_is_refused(converted: Path, tmp_path: Path) -> None:
    (converted / ".metadata").write_bytes(pickle.dumps(Hostile(tmp_path / "pwned")))
    with pytest.raises(CheckpointError, match=r"names .*open, which describes no tensor"):
        TorchDistReader(converted, read_family(converted / "hf"))
    assert not (tmp_path / "pwned").exists()


def test_layouts_that_do_not_fit(small: Path, tmp_path: Path) -> None:
    three = llama_folder(tmp_path / "three", tied=True, num_key_value_heads=2)
    family = read_family(small)
    with pytest.raises(UserError, match="tp=5 does not divide"):
        converter_layout(family, tp=5)
    with pytest.raises(UserError, match="add up to 3"):
        converter_layout(family, pp=2, pp_layers=[2, 1])
    with pytest.raises(UserError, match="tp=6 does not divide the 64 rows of the model's query"):
        converter_layout(read_family(three), tp=6)
    with pytest.raises(UserError, match="for experts"):
        converter_layout(family, ep=2)
