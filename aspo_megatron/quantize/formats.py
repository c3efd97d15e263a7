"""Formats of quantised weights: tensors to integers or FP8 and back, and what config.json says of them. Pure tensors.

The layout is that of the compressed-tensors library, which SGLang, vLLM and transformers read: for a linear layer
`weight` (or `weight_packed` and `weight_shape`), `weight_scale`, and `input_scale` where activations have a fixed one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.quantize.nvfp4 import unpacked

FormatName = Literal["fp8", "int8", "int4-awq", "nvfp4"]
Layout = Literal["compressed-tensors", "modelopt"]

_GROUP_SIZES = (128, 64, 32)
_FP8_MAX = 448.0
_INT8_MAX, _INT4_MAX = 127.0, 7.0
_PER_WORD = 8  # numbers of 4 bits in an int32


@dataclass(frozen=True)
class Format:
    """One way of quantising.

    Attributes:
        name: as the user gives it.
        title: for people.
        layouts: the ways in which it can be written; the first is the default.
        smoothing: modelopt's way of finding scales for the channels of activations; None does without.
    """

    name: FormatName
    title: str
    layouts: tuple[Layout, ...]
    smoothing: Literal["smoothquant", "awq"] | None = None


FORMATS: dict[str, Format] = {
    each.name: each
    for each in (
        Format("fp8", "FP8 (E4M3) weights and activations", ("compressed-tensors", "modelopt")),
        Format("int8", "INT8 weights and activations, SmoothQuant", ("compressed-tensors",), "smoothquant"),
        Format("int4-awq", "INT4 weights, AWQ", ("compressed-tensors",), "awq"),
        Format("nvfp4", "NVFP4 weights and activations", ("modelopt",)),
    )
}


def chosen_format(name: str, layout: str | None) -> tuple[Format, Layout]:
    """The format that a user names, and how it is written; `layout` None: its default.

    Raises:
        ConfigError: there is no such format, or it is not written so.
    """
    if name not in FORMATS:
        raise ConfigError(f"--format {one_line(name)}: must be one of {', '.join(FORMATS)}")
    form = FORMATS[name]
    layouts = {each: each for each in form.layouts}
    if layout is not None and layout not in layouts:
        raise ConfigError(f"--layout {one_line(layout)}: {name} is written as {' or '.join(layouts)}")
    return form, layouts[layout] if layout else form.layouts[0]


def group_size_of(inputs: Sequence[int]) -> int:
    """How many weights in a row share a scale of INT4: the largest group that divides the inputs of every layer.

    Raises:
        ConfigError: none does.
    """
    for size in _GROUP_SIZES:
        if all(count % size == 0 for count in inputs):
            return size
    widths = ", ".join(map(str, sorted(set(inputs))))
    raise ConfigError(f"--format int4-awq: no group of {_GROUP_SIZES} divides the layers' inputs ({widths}); use fp8")


def rounded_amax(name: FormatName, amax: Tensor) -> Tensor:
    """The largest magnitudes that weights are quantised by, such that a server reads the scales without rounding.

    Scales of INT4 have a server's precision, bfloat16; the others are fp32.
    """
    if name != "int4-awq":
        return amax
    return (amax.float() / _INT4_MAX).to(torch.bfloat16).float() * _INT4_MAX


def pack(name: FormatName, weight: Tensor, amax: Tensor, input_amax: Tensor | None = None) -> dict[str, Tensor]:
    """A layer's tensors, by the last part of their names.

    Args:
        name: not `nvfp4`.
        weight: [out, in].
        amax: the largest magnitude of the weights that share a scale: of all (fp8, one number), of each row (int8,
            out numbers) or of each group in a row (int4-awq, out x groups numbers).
        input_amax: the largest magnitude of the inputs, one number (fp8).

    Returns:
        fp8: `weight` [out, in] float8_e4m3fn, `weight_scale` [1], `input_scale` [1];
        int8: `weight` [out, in] int8, `weight_scale` [out, 1];
        int4-awq: `weight_packed` [out, in / 8] int32, the first number lowest, each plus 8; `weight_scale`
        [out, groups] bfloat16; `weight_shape` [2]. Scales are fp32 but for int4-awq.
    """
    values, amax = weight.detach().float(), amax.detach().float()
    if name == "fp8":
        assert input_amax is not None
        scale = _scale(amax.reshape(1), _FP8_MAX)
        numbers = (values / scale).clamp(-_FP8_MAX, _FP8_MAX).to(torch.float8_e4m3fn)
        input_scale = _scale(input_amax.detach().float().reshape(1), _FP8_MAX)
        return {"weight": numbers, "weight_scale": scale, "input_scale": input_scale}
    if name == "int8":
        scale = _scale(amax.reshape(-1, 1), _INT8_MAX)
        return {"weight": (values / scale).round().clamp(-128, 127).to(torch.int8), "weight_scale": scale}
    assert name == "int4-awq"
    scale = _scale(amax.reshape(len(weight), -1), _INT4_MAX)
    grouped = values.view(*scale.shape, -1) / scale[..., None]
    numbers = grouped.round().clamp(-8, 7).to(torch.int32).view(values.shape) + 8
    shifts = 4 * torch.arange(_PER_WORD, dtype=torch.int32, device=weight.device)
    words = (numbers.view(len(weight), -1, _PER_WORD) << shifts).sum(dim=-1, dtype=torch.int32)
    shape = torch.tensor(weight.shape, dtype=torch.int64)
    return {"weight_packed": words, "weight_scale": scale.to(torch.bfloat16), "weight_shape": shape}


def unpack(tensors: Mapping[str, Tensor]) -> Tensor:
    """The weights that the tensors of `pack` stand for, fp32 [out, in]; of fp8 and nvfp4 in modelopt's layout, too."""
    if "weight_scale_2" in tensors:
        return unpacked(tensors["weight"], tensors["weight_scale"], tensors["weight_scale_2"])
    scale = tensors["weight_scale"].float()
    if "weight_packed" not in tensors:
        return tensors["weight"].float() * scale
    rows, columns = tensors["weight_shape"].tolist()
    words = tensors["weight_packed"]
    shifts = 4 * torch.arange(_PER_WORD, dtype=torch.int32, device=words.device)
    numbers = ((words[..., None] >> shifts) & 15) - 8
    return (numbers.view(rows, scale.shape[1], -1) * scale[..., None]).view(rows, columns)


def quantization_config(name: FormatName, group_size: int, ignore: Sequence[str]) -> dict[str, Any]:
    """`quantization_config` of config.json in the layout compressed-tensors.

    Args:
        name: not `nvfp4`.
        group_size: of int4-awq.
        ignore: linear layers that are as they were.
    """
    tensor = {"type": "float", "num_bits": 8, "strategy": "tensor", "symmetric": True, "dynamic": False}
    channel = {"type": "int", "num_bits": 8, "strategy": "channel", "symmetric": True, "dynamic": False}
    token = {"type": "int", "num_bits": 8, "strategy": "token", "symmetric": True, "dynamic": True}
    group = {"type": "int", "num_bits": 4, "strategy": "group", "group_size": group_size, "symmetric": True}
    kinds: dict[str, tuple[str, dict[str, Any], dict[str, Any] | None]] = {
        "fp8": ("float-quantized", tensor, tensor),
        "int8": ("int-quantized", channel, token),
        "int4-awq": ("pack-quantized", group | {"dynamic": False}, None),
    }
    kind, weights, inputs = kinds[name]
    return {
        "quant_method": "compressed-tensors",
        "format": kind,
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, "input_activations": inputs}},
        "ignore": list(ignore),
    }


def _scale(amax: Tensor, largest: float) -> Tensor:
    """What a step is worth; 1 where all weights are 0."""
    return torch.where(amax > 0, amax / largest, torch.ones_like(amax))
