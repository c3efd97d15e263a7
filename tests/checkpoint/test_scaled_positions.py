"""Models with scaled rotary positions: what transformers makes of config.json does not change what they are known by.

transformers writes defaults into the rotary fields that it is given. A state that was known by them could not be gone
on from, and what is exported would have fields that the model never had.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from thorough import one_in
from transformers import AutoConfig

from aspo_megatron.checkpoint.convert import converter_layout, hf_to_megatron, megatron_to_hf
from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder, write_folder
from aspo_megatron.checkpoint.states.trainer_state import TrainerState
from aspo_megatron.checkpoint.torch_dist.manifest import check_model, model_identity, read_manifest
from aspo_megatron.checkpoint.usable import usable_weights
from aspo_megatron.config.io import load_config, save_config
from aspo_megatron.errors import CheckpointError
from aspo_megatron.models.family import read_family
from aspo_megatron.parallel.grid.topology import process_grid
from distributed import Ranks
from tiny_models import llama_folder

pytestmark = [pytest.mark.distributed, pytest.mark.timeout(180)]

PAIRS = 2  # heads of 4
THETA = 5e5
KINDS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 2.0},
    "dynamic": {"factor": 2.0},
    "yarn": {"factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 1.0},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "longrope": {
        "short_factor": [1.0] * PAIRS,
        "long_factor": [2.0] * PAIRS,
        "original_max_position_embeddings": 256,
        "attention_factor": 1.0,
    },
}
SPELLINGS: dict[str, Any] = {
    "rope_scaling": lambda kind, more: {"rope_scaling": {"rope_type": kind, **more}, "rope_theta": THETA},
    "type": lambda kind, more: {"rope_scaling": {"type": kind, **more}, "rope_theta": THETA},
    "rope_parameters": lambda kind, more: {"rope_parameters": {"rope_type": kind, "rope_theta": THETA, **more}},
    "without theta": lambda kind, more: {"rope_parameters": {"rope_type": kind, **more}, "rope_theta": THETA},
}


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    with Ranks() as started:
        yield started


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama_folder(tmp_path_factory.mktemp("model") / "llama", tied=True)


def positions(folder: Path, kind: str, spelling: str) -> dict[str, Any]:
    """Write a config.json with these positions into a folder; its content."""
    config = json.loads((folder / "config.json").read_text())
    for name in ("rope_parameters", "dtype"):
        config.pop(name, None)
    config |= {"torch_dtype": "bfloat16", **SPELLINGS[spelling](kind, KINDS[kind])}
    (folder / "config.json").write_text(json.dumps(config))
    return config


SPELT = [(kind, spelling) for kind in KINDS for spelling in ("rope_scaling", "rope_parameters")]
SPELT += [("linear", "type"), ("llama3", "without theta")]


@pytest.mark.parametrize(("kind", "spelling"), one_in(3, SPELT))
def test_a_run_goes_on(ranks: Ranks, whole: Path, tmp_path: Path, kind: str, spelling: str) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    config = positions(folder, kind, spelling)
    settings = [f"output_dir={tmp_path / 'run'}", f"model.path={folder}", "data.train={kind: jsonl, path: none.jsonl}"]
    ranks.run(1, save_and_go_on, [*settings, "platform.device=cpu", "model.init=pretrained"])
    exported = json.loads((tmp_path / "exported" / "config.json").read_text())
    assert exported == {**config, "torch_dtype": "float32"}
    assert list(exported) == list(config)
    megatron_to_hf(tmp_path / "run/checkpoints/step-000001", tmp_path / "back", None, lambda _: None)
    assert (tmp_path / "back/config.json").read_bytes() == (folder / "config.json").read_bytes()


def save_and_go_on(settings: list[str]) -> None:
    """All that takes the model's configuration in a run, then a save and an export; another process goes on from it."""
    config = load_config(None, settings)
    path = config.model.path
    with process_grid(config.parallel, config.platform, seed=1) as topology:
        from aspo_megatron.checkpoint.states.run_states import StateSaver, find_state
        from aspo_megatron.models.hf_config import transformers_config
        from aspo_megatron.parallel.model.policy import build_model
        from aspo_megatron.parallel.update.optimizer import Optimizer
        from aspo_megatron.rollout.embedded.empty_model import empty_model

        family = read_family(path)
        with SafetensorsFolder(path) as tensors:
            model = build_model(family, topology, config.model, tensors)
        empty_model(transformers_config(family), torch.float32, torch.device("cpu"))
        optimizer = Optimizer(model, config.optimizer, 2, config.parallel)
        config.output_dir.mkdir()
        save_config(config, config.output_dir / "config.yaml")
        said: list[str] = []
        saver = StateSaver(config, family, model, optimizer, said.append)
        saver.save(TrainerState(1, 3, 7, 1.0, None, 0.5, "digest"))
        saver.finish()
        write_folder(path.parent / "exported", model.hf_tensors(), family.exported_config("float32"), path)
        found = find_state(config, read_family(path), said.append)
        assert found is not None
        assert said == []
        usable_weights(found / "hf")


@pytest.mark.parametrize("kind", KINDS)
def test_states_of_earlier_versions(whole: Path, tmp_path: Path, kind: str) -> None:
    """They are known by what transformers had made of config.json."""
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    config = positions(folder, kind, "rope_scaling")
    family = read_family(folder)
    hf_to_megatron(folder, tmp_path / "state", converter_layout(family), None, lambda _: None)
    manifest = read_manifest(tmp_path / "state")
    check_model(tmp_path / "state", manifest, family)
    left = copy.deepcopy(config)
    AutoConfig.for_model(**left)
    assert left != config
    check_model(tmp_path / "state", replace(manifest, model=model_identity(left)), family)
    other = replace(manifest, model=model_identity({**left, "rope_theta": 1e4}))
    with pytest.raises(CheckpointError, match="holds another model"):
        check_model(tmp_path / "state", other, family)


def test_nobody_changes_what_a_model_is_known_by(whole: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    config = positions(folder, "llama3", "rope_scaling")
    family = read_family(folder)
    given = family.hf_config
    given["rope_scaling"]["rope_theta"] = 1.0
    given["new"] = 1
    family.exported_config("float32")["rope_scaling"].clear()
    assert family.hf_config == config
    assert family == read_family(folder)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"torch_dtype": "bfloat16"}, {"torch_dtype": "float32"}),
        ({"dtype": "bfloat16"}, {"dtype": "float32"}),
        ({"dtype": None, "torch_dtype": "float16"}, {"dtype": "float32", "torch_dtype": "float32"}),
        ({}, {"dtype": "float32"}),
    ],
)
def test_the_precision_of_what_is_exported(
    whole: Path, tmp_path: Path, fields: dict[str, Any], expected: dict[str, Any]
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    config = json.loads((folder / "config.json").read_text())
    for name in ("dtype", "torch_dtype"):
        config.pop(name, None)
    (folder / "config.json").write_text(json.dumps({**config, **fields}))
    assert read_family(folder).exported_config("float32") == {**config, **expected}
