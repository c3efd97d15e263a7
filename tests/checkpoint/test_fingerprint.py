"""Weights that have changed under the same path: noticed, and the file named."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from aspo_megatron.checkpoint import fingerprint
from aspo_megatron.checkpoint.convert import converter_layout, hf_to_megatron
from aspo_megatron.checkpoint.fingerprint import Fingerprint, weights_fingerprint
from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder, write_folder
from aspo_megatron.checkpoint.states.trainer_state import TrainerState, changed_weights, noted_weights
from aspo_megatron.config import RunConfig
from aspo_megatron.models.family import read_family
from tiny_models import llama_folder

BEGUN = TrainerState(3, 12, 4000, 1.5, None, None, "")
SECOND = "model-00002-of-00003.safetensors"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """In three files."""
    folder = tmp_path_factory.mktemp("model")
    llama_folder(folder / "one", tied=True)
    with SafetensorsFolder(folder / "one") as source:
        tensors = [(name, source.read_whole(name)) for name in source.names()]
    size = sum(tensor.nbytes for _, tensor in tensors)
    family = read_family(folder / "one")
    write_folder(folder / "three", iter(tensors), family.hf_config, folder / "one", max_shard_bytes=size // 3 + 4000)
    return folder / "three"


@pytest.fixture(params=["all of a file", "samples"])
def files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How files are looked at: those of the test are small."""
    if request.param == "samples":
        monkeypatch.setattr(fingerprint, "_WHOLE_BYTES", 0)
        monkeypatch.setattr(fingerprint, "_BLOCK", 64)
    return str(request.param)


def config(path: Path) -> RunConfig:
    return RunConfig.model_validate(
        {"output_dir": "run", "model": {"path": path}, "data": {"train": {"kind": "jsonl", "path": "p.jsonl"}}}
    )


def scaled(tensor: Tensor) -> Tensor:
    return (tensor.float() * 1.01 + 1e-3).to(tensor.dtype)


def test_a_change_of_any_one_tensor(model: Path, tmp_path: Path, files: str) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    state = noted_weights(BEGUN, Fingerprint.of(folder))
    assert set(state.weight_files) == {path.name for path in folder.glob("*.safetensors")}
    tensors = load_file(folder / SECOND)
    assert len(tensors) > 3
    for name in tensors:
        save_file({**tensors, name: scaled(tensors[name])}, folder / SECOND, metadata={"format": "pt"})
        said = changed_weights(config(folder), state, Fingerprint.of(folder))
        assert said == (
            f"model.path: {folder} has other weights than those that the run began with ({SECOND} differs)"
        ), name
    save_file(tensors, folder / SECOND, metadata={"format": "pt"})
    assert changed_weights(config(folder), state, Fingerprint.of(folder.rename(tmp_path / "moved"))) is None


def test_other_files(model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    state = noted_weights(BEGUN, Fingerprint.of(folder))
    (folder / "consolidated.safetensors").write_bytes(bytes(100))  # which nobody reads
    assert changed_weights(config(folder), state, Fingerprint.of(folder)) is None
    for path in folder.glob("model-*.safetensors"):
        save_file({name: scaled(each) for name, each in load_file(path).items()}, path, metadata={"format": "pt"})
    said = changed_weights(config(folder), state, Fingerprint.of(folder))
    assert said is not None
    assert said.endswith("(model-00001-of-00003.safetensors and 2 more files differ)")


def test_states_of_earlier_versions(model: Path, tmp_path: Path) -> None:
    """They have a hash of all files together, and those of the first nothing."""
    folder = Path(shutil.copytree(model, tmp_path / "model"))
    before = Fingerprint.of(folder)
    old = replace(BEGUN, weights=weights_fingerprint(folder))
    assert changed_weights(config(folder), old, before) is None
    assert noted_weights(old, before).weight_files == before.files
    (folder / SECOND).write_bytes((folder / SECOND).read_bytes()[:-8] + bytes(8))
    now = Fingerprint.of(folder)
    said = f"model.path: {folder} has other weights than those that the run began with"
    assert changed_weights(config(folder), old, now) == said
    assert noted_weights(old, now) == old
    assert changed_weights(config(folder), BEGUN, now) is None
    assert changed_weights(config(folder), old, Fingerprint()) is None


def test_a_checkpoint(model: Path, tmp_path: Path) -> None:
    for name in ("one", "other"):
        folder = Path(shutil.copytree(model, tmp_path / f"hf-{name}"))
        if name == "other":
            tensors = load_file(folder / SECOND)
            save_file({key: scaled(each) for key, each in tensors.items()}, folder / SECOND, metadata={"format": "pt"})
        hf_to_megatron(folder, tmp_path / name, converter_layout(read_family(folder)), None, lambda _: None)
    state = noted_weights(BEGUN, Fingerprint.of(tmp_path / "one" / "hf"))
    other = Fingerprint.of(tmp_path / "other" / "hf")
    said = changed_weights(config(tmp_path), state, other)
    assert said is not None
    assert said.endswith("(__0_0.distcp differs)")


def test_little_is_read_of_a_large_file(tmp_path: Path) -> None:
    tensors = {f"{number}": torch.zeros(1 << 20) for number in range(6)} | {"small": torch.zeros(3)}
    save_file(tensors, tmp_path / "model.safetensors")
    size = (tmp_path / "model.safetensors").stat().st_size
    assert size > fingerprint._WHOLE_BYTES
    blocks = list(fingerprint._samples(tmp_path / "model.safetensors", size))
    assert sum(length for _, length in blocks) < 40_000
    assert all(0 <= start <= start + length <= size for start, length in blocks)
