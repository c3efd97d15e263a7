"""Weights that hold NaN or infinity are refused as they are read; a model's file and tensor are named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aspo_megatron.checkpoint.convert import converter_layout, hf_to_megatron
from aspo_megatron.checkpoint.finite import FiniteTensors, not_finite
from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder
from aspo_megatron.checkpoint.hf_view import HfView
from aspo_megatron.checkpoint.torch_dist.reader import TorchDistReader
from aspo_megatron.errors import CheckpointError
from aspo_megatron.models.family import read_family
from tiny_models import llama_folder

ODD = {"NaN": float("nan"), "infinity": float("inf"), "-infinity": -float("inf")}
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.float8_e5m2]
TENSOR = "model.layers.1.mlp.down_proj.weight"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("size", [1, 7, 16, 33, 1000, (1 << 20) + 5])
def test_one_odd_number_is_found_wherever_it_is(odd: str, dtype: torch.dtype, size: int) -> None:
    for place in {0, size // 2, size - 1}:
        tensor = torch.linspace(-3, 3, size).to(dtype)
        tensor[place] = ODD[odd]
        assert not_finite(tensor) == odd.removeprefix("-")


@pytest.mark.parametrize("dtype", DTYPES)
def test_numbers_are_numbers(dtype: torch.dtype) -> None:
    largest = torch.finfo(dtype).max
    extremes = [largest, -largest, 0.0, torch.finfo(dtype).tiny]
    assert not_finite(torch.tensor(extremes, dtype=torch.float64).to(dtype)) is None
    assert not_finite(torch.empty((0, 3), dtype=dtype)) is None
    assert not_finite(torch.full((3000, 1000), largest, dtype=dtype)) is None  # whose sum is beyond the range
    assert not_finite(torch.tensor(1.0).to(dtype)) is None
    assert not_finite(torch.tensor([1, 2])) is None


@pytest.mark.parametrize("dtype", DTYPES[1:4])
@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("kind", ["folder", "checkpoint"])
def test_a_model_with_an_odd_weight_is_refused(tmp_path: Path, kind: str, odd: str, dtype: torch.dtype) -> None:
    folder = llama_folder(tmp_path / "llama", tied=True)
    tensors = {name: tensor.to(dtype) for name, tensor in load_file(folder / "model.safetensors").items()}
    tensors[TENSOR][3, 5] = ODD[odd]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    family = read_family(folder)
    if kind == "folder":
        file, source = folder / "model.safetensors", FiniteTensors(SafetensorsFolder(folder))
    else:
        hf_to_megatron(folder, tmp_path / "megatron", converter_layout(family), None, lambda _: None)
        file = tmp_path / "megatron" / "__0_0.distcp"
        source = FiniteTensors(HfView(TorchDistReader(tmp_path / "megatron", family), family))
    for name, tensor in tensors.items():
        if name != TENSOR:
            assert torch.equal(source.read_whole(name), tensor)
    assert torch.equal(source.read(TENSOR, 0, 4, 6), tensors[TENSOR][4:6])  # another rank's rows
    for read in (lambda: source.read_whole(TENSOR), lambda: source.read(TENSOR, 0, 2, 4)):
        with pytest.raises(CheckpointError) as raised:
            read()
        said = str(raised.value)
        assert said.startswith(f"{file}: tensor {TENSOR} holds {odd.removeprefix('-')}, with which no model")
        assert len(said.splitlines()) == 1
