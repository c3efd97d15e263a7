"""`model.path` names a megatron checkpoint: the same tensors as from its Hugging Face folder, and clear refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from aspo_megatron.check.comparison import model_of
from aspo_megatron.checkpoint.checked_json import with_digest
from aspo_megatron.checkpoint.convert import converter_layout, hf_to_megatron
from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder
from aspo_megatron.checkpoint.hf.model_card import model_card
from aspo_megatron.config import RunConfig
from aspo_megatron.config.io import load_config
from aspo_megatron.errors import CheckpointError
from aspo_megatron.inputs.read import open_weights, read_inputs
from aspo_megatron.models.family import read_family
from aspo_megatron.parallel.grid.topology import process_grid
from distributed import RankError, Ranks
from tiny_models import llama_folder

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(180)]

TOKENIZER = Path(__file__).parents[2] / "examples" / "tiny" / "model"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = llama_folder(tmp_path_factory.mktemp("model") / "llama", tied=True, num_hidden_layers=4, vocab_size=512)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(TOKENIZER / name, folder / name)
    return folder


@pytest.fixture
def checkpoint(model: Path, tmp_path: Path) -> Path:
    hf_to_megatron(model, tmp_path / "megatron", converter_layout(read_family(model), tp=2, pp=2), None, lambda _: None)
    return tmp_path / "megatron"


def settings(path: Path) -> list[str]:
    (path.parent / "problems.jsonl").write_text('{"prompt": "1 + 1", "answer": "2"}\n')
    return [
        f"model.path={path}",
        f"output_dir={path.parent / 'run'}",
        f"data.train={{kind: jsonl, path: {path.parent / 'problems.jsonl'}}}",
        "data.format=raw",
        "reward.kind=math",
        "platform.device=cpu",
        "parallel.dp=2",
        "rollout.sampling.max_response_tokens=8",
    ]


def test_the_same_tensors(ranks: Ranks, model: Path, checkpoint: Path) -> None:
    config = load_config(None, settings(checkpoint))
    assert config.model.path == checkpoint / "hf"
    assert read_inputs(config).family == read_family(model)
    for loaded in ranks.run(2, load_all, config):
        with SafetensorsFolder(model) as tensors:
            assert sorted(loaded) == sorted(tensors.names())
            for name, tensor in loaded.items():
                assert torch.equal(tensor, tensors.read_whole(name)), name
    card = model_card(config, 1, 1, None, None)
    assert "base_model: megatron" in card


def load_all(config: RunConfig) -> dict[str, torch.Tensor]:
    with process_grid(config.parallel, config.platform, seed=1):
        from aspo_megatron.checkpoint.hf.folder import hf_shapes

        weights = open_weights(config, read_family(config.model.path))
        return {name: weights.read_whole(name).clone() for name in hf_shapes(config.model.path)}


def other_model(folder: Path) -> None:
    path = folder / "hf" / "config.json"
    text = json.dumps({**json.loads(path.read_text()), "num_hidden_layers": 6})
    path.write_text(text)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["hf/config.json"]["size"] = len(text)
    del manifest["digest"]
    (folder / "manifest.json").write_bytes(with_digest(manifest))


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no tokenizer": (lambda path: (path / "hf" / "tokenizer.json").unlink(), r"hf/tokenizer\.json: missing"),
    "no config": (lambda path: (path / "hf" / "config.json").unlink(), r"megatron/hf holds no config\.json"),
    "a list": (lambda path: (path / "hf" / "config.json").write_text("[]"), r"hf/config\.json: not a JSON object"),
    "no folder": (lambda path: shutil.rmtree(path / "hf"), r"there is no folder .*megatron/hf"),
    "no manifest": (
        lambda path: (path / "manifest.json").unlink(),
        r"model\.path: .*megatron is a megatron checkpoint, but not one that a run or `aspo convert hf-to-megatron`",
    ),
    "no weights": (lambda path: (path / "__1_0.distcp").unlink(), r"__1_0\.distcp: missing"),
    "another model": (other_model, r"holds another model"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_missing_is_named(checkpoint: Path, damage: str) -> None:
    spoil, message = DAMAGE[damage]
    spoil(checkpoint)
    with pytest.raises(CheckpointError, match=message) as raised:
        read_inputs(load_config(None, settings(checkpoint)))
    assert len(str(raised.value).splitlines()) == 1


def test_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    folder = llama_folder(tmp_path / "llama", tied=True)
    hf_to_megatron(folder, tmp_path / "bare", converter_layout(read_family(folder)), None, lambda _: None)
    with pytest.raises(CheckpointError, match=r"bare/hf: no tokenizer"):
        read_inputs(load_config(None, settings(tmp_path / "bare")))


def test_a_flipped_byte_is_refused_by_all_ranks(ranks: Ranks, checkpoint: Path) -> None:
    path = checkpoint / "__3_0.distcp"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.raises(RankError, match=r"CheckpointError: model\.path: .*__3_0\.distcp: damaged"):
        ranks.run(2, load_all, load_config(None, settings(checkpoint)))


def test_aspo_check_makes_a_folder_of_it(model: Path, checkpoint: Path, tmp_path: Path) -> None:
    made = model_of(checkpoint, tmp_path)
    assert made != checkpoint
    assert (made / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()
    assert model_of(model, tmp_path) == model
