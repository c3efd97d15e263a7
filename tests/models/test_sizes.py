"""Sizes that no machine holds are compared before anything is made of them: no list of names, no process."""

from __future__ import annotations

import time
import tracemalloc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from aspo_megatron.checkpoint.hf.folder import hf_shapes
from aspo_megatron.checkpoint.usable import check_weights
from aspo_megatron.config import RunConfig
from aspo_megatron.config.io import load_config
from aspo_megatron.errors import CheckpointError, ConfigError
from aspo_megatron.inputs import machine
from aspo_megatron.inputs.machine import machine_memory, refuse_beyond_memory
from aspo_megatron.models.counts import model_elements
from aspo_megatron.models.family import read_family
from aspo_megatron.models.mapping import each_hf_size, hf_sizes, hf_tensors

from .folders import BASE, MOE, copy_of_tiny, the_line, with_config

LARGE: dict[str, dict[str, object]] = {
    "many layers": {"num_hidden_layers": 10_000},
    "wide": {"hidden_size": 1 << 20, "num_attention_heads": 4096, "num_key_value_heads": 4096, "head_dim": 256},
    "a large vocabulary": {"vocab_size": 1 << 24, "hidden_size": 1 << 16},
    "a wide feed forward": {"intermediate_size": 1 << 22, "hidden_size": 1 << 14, "num_hidden_layers": 100},
    "large heads": {"head_dim": 1 << 14, "num_hidden_layers": 1000, "hidden_size": 1 << 14},
    "many heads": {"num_attention_heads": 1 << 14, "num_key_value_heads": 1 << 14, "num_hidden_layers": 10_000},
    "not tied": {"tie_word_embeddings": False, "vocab_size": 1 << 24, "hidden_size": 1 << 14},
    "a hundred times what there is": {"hidden_size": 1 << 15, "intermediate_size": 1 << 17, "num_hidden_layers": 500},
    "experts": {**MOE, "num_experts": 16_384, "moe_intermediate_size": 1 << 12, "hidden_size": 1 << 12},
    "layers of experts": {**MOE, "num_hidden_layers": 300, "num_experts": 1024, "moe_intermediate_size": 1 << 14},
}


def run_of(folder: Path, *settings: str) -> RunConfig:
    data = "data.train={kind: reasoning_gym, family: chain_sum, prompt_field: expression}"
    return load_config(None, [
        f"model.path={folder}", "model.init=random", f"output_dir={folder / 'run'}", data, "data.format=raw",
        "reward.kind=reasoning_gym", "platform.device=cpu", *settings,
    ])  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_random_weights_beyond_the_memory_are_one_line(tmp_path: Path, name: str) -> None:
    folder = with_config(tmp_path / "model", {**BASE, **LARGE[name]})
    if name == "many layers":  # of the tiny model, which would fit
        folder = with_config(folder, {**BASE, **LARGE[name], "hidden_size": 1 << 14})
    family = read_family(folder)
    elements = model_elements(family)
    tracemalloc.start()
    for settings in ((), ("platform.device=cuda",), ("parallel.dp=4",)):
        with pytest.raises(ConfigError) as raised:
            refuse_beyond_memory(run_of(folder, *settings), family)
        the_line(raised.value, str(folder / "config.json"), f"{elements:,} parameters", "GiB")
    assert tracemalloc.get_traced_memory()[1] < 128 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("name", LARGE)
def test_weights_that_hold_less_than_is_asked_for_are_one_line(tmp_path: Path, name: str) -> None:
    folder = copy_of_tiny(tmp_path / "model")
    small = BASE if name not in ("experts", "layers of experts") else {**MOE, "head_dim": 16}
    with_config(folder, small)
    tensors = {key: torch.zeros(shape) for key, shape in hf_shapes(folder).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    check_weights(folder, read_family(folder))
    with_config(folder, {**small, **LARGE[name]})
    tracemalloc.start()
    with pytest.raises(CheckpointError) as raised:
        check_weights(folder, read_family(folder))
    assert tracemalloc.get_traced_memory()[1] < 128 << 20
    tracemalloc.stop()
    the_line(raised.value, str(folder), "tensor model.")


def test_what_is_asked_for_and_what_is_held_are_named(tmp_path: Path) -> None:
    folder = copy_of_tiny(tmp_path / "model")
    tensors = {key: torch.zeros(shape) for key, shape in hf_shapes(folder).items()}
    held = sum(tensor.numel() for tensor in tensors.values())
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    family = read_family(with_config(folder, {**BASE, "num_hidden_layers": 10_000}))
    asked = model_elements(family)
    with pytest.raises(CheckpointError) as raised:
        check_weights(folder, read_family(folder))
    the_line(raised.value, "layers.2.", f"asks for {asked:,} parameters, they hold {held:,}")


def test_what_the_machine_holds_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_of_tiny(tmp_path / "model")
    family = read_family(folder)
    run = run_of(folder, "model.dtype=float32", "loss.kl_coef=0", "shaping.kl_coef=0")
    refuse_beyond_memory(run, family)
    # Four bytes each of weights and gradients, eight of Adam's moments: to the byte.
    least = 16 * model_elements(family)
    monkeypatch.setattr(machine, "machine_memory", lambda: least)
    refuse_beyond_memory(run, family)
    monkeypatch.setattr(machine, "machine_memory", lambda: least - 1)
    with pytest.raises(ConfigError, match="see num_hidden_layers and the sizes"):
        refuse_beyond_memory(run, family)


def test_the_machine_has_some_memory() -> None:
    assert 1 << 28 < machine_memory() < 1 << 50


def test_names_are_made_one_by_one(tmp_path: Path) -> None:
    family = read_family(with_config(tmp_path / "model", {**MOE, "num_experts": 300, "num_hidden_layers": 1000}))
    shape = family.shape(tp=1)
    began = time.process_time()
    assert hf_tensors(family.rows, shape) == 3 + 1000 * (9 + 3 * 300) - 1
    name, size = next(each_hf_size(family.rows, shape))
    assert (name, size) == ("model.embed_tokens.weight", (257, 64))
    assert time.process_time() - began < 60  # not a list of a million names
    small = read_family(with_config(tmp_path / "small", MOE))
    assert hf_tensors(small.rows, small.shape(tp=1)) == len(hf_sizes(small.rows, small.shape(tp=1)))
