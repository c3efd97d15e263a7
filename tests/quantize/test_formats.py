"""Weights to integers or FP8 and back; scales moved into the layers before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from aspo_megatron.errors import ConfigError
from aspo_megatron.quantize.formats import FormatName, group_size_of, pack, quantization_config, rounded_amax, unpack
from aspo_megatron.quantize.nvfp4 import rounded, unpacked
from aspo_megatron.quantize.smoothing import fold_scales
from tiny_models import llama_folder, qwen2_folder, qwen3_folder


@pytest.fixture
def weight() -> Tensor:
    return torch.randn(6, 64, generator=torch.Generator().manual_seed(0))


def amax_of(name: FormatName, weight: Tensor) -> Tensor:
    return {
        "fp8": weight.abs().max(),
        "int8": weight.abs().amax(dim=1, keepdim=True),
        "int4-awq": weight.view(6, 2, 32).abs().amax(dim=2),
    }[name]


@pytest.mark.parametrize(("name", "steps"), [("fp8", 448), ("int8", 127), ("int4-awq", 7)])
def test_weights_come_back_within_half_a_step(weight: Tensor, name: FormatName, steps: int) -> None:
    amax = rounded_amax(name, amax_of(name, weight))
    packed = pack(name, weight, amax, torch.tensor(3.5))
    step = amax.expand(6, 1).expand(6, 64) / steps if name != "int4-awq" else amax.repeat_interleave(32, 1) / steps
    back = unpack(packed)
    if name == "fp8":  # three bits of mantissa, and steps of 2^-9 near zero
        largest_error = torch.maximum(weight.abs() / 16, step * 2**-10)
    else:
        largest_error = step * (0.5 + 1e-5)
        if name == "int4-awq":  # rounding the scale to bfloat16 may leave the largest weight outside
            largest_error = largest_error + amax.repeat_interleave(32, 1) * 2**-8
    assert ((back - weight).abs() <= largest_error).all()
    # What was rounded once stays as it is.
    assert torch.allclose(unpack(pack(name, back, amax, torch.tensor(3.5))), back, rtol=1e-6, atol=0)


def test_names_shapes_and_types(weight: Tensor) -> None:
    names: tuple[FormatName, ...] = ("fp8", "int8", "int4-awq")
    found = {
        name: {part: (tuple(t.shape), t.dtype) for part, t in pack(name, weight, amax, torch.tensor(44.8)).items()}
        for name, amax in ((name, amax_of(name, weight)) for name in names)
    }
    assert found["fp8"] == {
        "weight": ((6, 64), torch.float8_e4m3fn),
        "weight_scale": ((1,), torch.float32),
        "input_scale": ((1,), torch.float32),
    }
    assert found["int8"] == {"weight": ((6, 64), torch.int8), "weight_scale": ((6, 1), torch.float32)}
    assert found["int4-awq"] == {
        "weight_packed": ((6, 8), torch.int32),
        "weight_scale": ((6, 2), torch.bfloat16),
        "weight_shape": ((2,), torch.int64),
    }
    packed = pack("fp8", weight, amax_of("fp8", weight), torch.tensor(44.8))
    assert packed["input_scale"].item() == pytest.approx(0.1)


def test_the_first_number_is_the_lowest_of_a_word() -> None:
    weight = torch.tensor([[-7.0, -6, -5, 0, 1, 2, 3, 7] * 4])
    words = pack("int4-awq", weight, torch.tensor([[7.0]]))["weight_packed"]
    assert words.tolist() == [[int.from_bytes(bytes([0x21, 0x83, 0xA9, 0xFB]), "little", signed=True)] * 4]


def test_words_are_those_of_the_compressed_tensors_library(weight: Tensor) -> None:
    from compressed_tensors.compressors import pack_to_int32

    amax = rounded_amax("int4-awq", amax_of("int4-awq", weight))
    packed = pack("int4-awq", weight, amax)
    numbers = (weight.view(6, 2, 32) / packed["weight_scale"].float()[..., None]).round().clamp(-8, 7)
    assert torch.equal(pack_to_int32(numbers.view(6, 64).to(torch.int8), 4), packed["weight_packed"])


def test_rows_of_zeros_stay_zeros(weight: Tensor) -> None:
    weight[2] = 0
    for name in ("int8", "int4-awq"):
        assert (unpack(pack(name, weight, amax_of(name, weight)))[2] == 0).all()
    assert (unpack(pack("fp8", weight * 0, torch.tensor(0.0), torch.tensor(0.0))) == 0).all()


def test_group_sizes() -> None:
    assert group_size_of([4096, 4096, 12288]) == 128
    assert group_size_of([576, 576, 1536]) == 64
    with pytest.raises(ConfigError, match=r"int4-awq: no group of .*divides the layers' inputs \(48, 72\)"):
        group_size_of([48, 48, 72])


def test_what_config_json_says() -> None:
    said = quantization_config("int4-awq", 64, ["lm_head"])
    assert (said["quant_method"], said["format"], said["ignore"]) == (
        "compressed-tensors",
        "pack-quantized",
        ["lm_head"],
    )
    assert said["config_groups"]["group_0"]["weights"]["group_size"] == 64
    inputs = {name: quantization_config(name, 0, [])["config_groups"]["group_0"] for name in ("fp8", "int8")}
    assert (inputs["fp8"]["input_activations"]["dynamic"], inputs["int8"]["input_activations"]["dynamic"]) == (
        False,
        True,
    )


@pytest.mark.parametrize("make", [llama_folder, qwen2_folder, qwen3_folder])
def test_folded_scales_change_nothing_but_rounding(make: Callable[..., Path], tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make(tmp_path / "model", tied=False), dtype=torch.float64)
    ids = torch.arange(1, 40)[None]
    generator = torch.Generator().manual_seed(1)
    scales = {
        name: torch.rand(layer.in_features, generator=generator, dtype=torch.float64) + 0.5
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear)
    }
    with torch.no_grad():
        before, weights = model(ids).logits, {name: p.clone() for name, p in model.named_parameters()}
        fold_scales(model, scales)
        after = model(ids).logits
    assert torch.allclose(after, before, rtol=0, atol=1e-10)
    same = {name for name, p in model.named_parameters() if torch.equal(p, weights[name])}
    kept = ("embed_tokens", "lm_head", "model.norm", "q_norm", "k_norm", "q_proj.bias", "k_proj.bias")
    assert all(any(part in name for part in kept) for name in same)


@pytest.mark.parametrize("kind", ["random", "tiny", "zeros", "middles"])
def test_nvfp4_is_modelopts_bit_for_bit(weight: Tensor, kind: str) -> None:
    from modelopt.torch.quantization.qtensor import NVFP4QTensor

    if kind == "tiny":
        weight[1:4] *= 1e-7  # below the least scale that FP8 has
    elif kind == "zeros":
        weight[1, 16:32] = 0.0
    elif kind == "middles":  # between two numbers each, of either sign
        middles = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, 6.0])
        weight[:] = torch.cat([middles, -middles] * 4)
    amax = weight.abs().max()
    packed, scale, of_all = NVFP4QTensor.quantize(weight.clone(), 16, None, amax / (6.0 * 448.0))
    theirs = unpacked(packed._quantized_data, scale, of_all)
    ours = rounded(weight, amax)
    assert torch.equal(ours, theirs)
    assert torch.equal(ours, packed.dequantize(torch.float32, scale=scale, double_scale=of_all, block_sizes={-1: 16}))
    assert torch.equal(rounded(ours, amax), ours)
    error = (ours - weight).abs().view(6, 4, 16).amax(dim=-1)
    assert (error <= weight.abs().view(6, 4, 16).amax(dim=-1) / 5 + amax * 2.0**-9 / 448).all()


def test_layers_of_zeros_in_nvfp4_stay_zeros() -> None:
    assert torch.equal(rounded(torch.zeros(2, 32), torch.tensor(0.0)), torch.zeros(2, 32))
