"""Scales for the channels of activations, moved into the layers before: the same function, easier to quantise.

SmoothQuant and AWQ multiply each input channel of a layer by a factor and divide the layer's column by it. What servers
read has no place for the factors, so they become part of what makes the channel: a norm, or the rows of a projection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

_BEFORE_NORMS = {
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}


@torch.no_grad()
def fold_scales(model: nn.Module, scales: Mapping[str, Tensor]) -> None:
    """Change the weights of a dense decoder such that every layer's inputs are multiplied by its scales.

    The outputs stay the same up to rounding. Layers with the same input get the mean of their scales; so do the heads
    of queries that share a head of values.

    Args:
        model: of a family that this project trains, without experts; changed in place.
        scales: a positive factor for each input channel, [in], by the name of the linear layer.
    """
    for name, layer in model.named_modules():
        if not name.endswith(".self_attn"):
            continue
        block = name.removesuffix(".self_attn")
        for norm, readers in _BEFORE_NORMS.items():
            names = [f"{block}.{reader}" for reader in readers]
            factor = torch.stack([scales[each] for each in names]).mean(dim=0)
            _into_norm(model, f"{block}.{norm}", names, factor)
        heads = (layer.config.num_key_value_heads, layer.num_key_value_groups, layer.head_dim)
        shared = scales[f"{name}.o_proj"].view(heads).mean(dim=1, keepdim=True)
        _into_rows(model, f"{name}.v_proj", shared.flatten())
        _divide_columns(model, f"{name}.o_proj", shared.expand(heads).flatten())
        inner = scales[f"{block}.mlp.down_proj"]
        _into_rows(model, f"{block}.mlp.up_proj", inner)
        _divide_columns(model, f"{block}.mlp.down_proj", inner)


def _into_norm(model: nn.Module, norm: str, readers: Sequence[str], factor: Tensor) -> None:
    weight = model.get_parameter(f"{norm}.weight")
    weight.mul_(factor.to(weight.dtype))
    for reader in readers:
        _divide_columns(model, reader, factor)


def _into_rows(model: nn.Module, layer: str, factor: Tensor) -> None:
    linear = model.get_submodule(layer)
    for parameter in linear.parameters(recurse=False):  # weight [out, in], bias [out]
        parameter.mul_(factor.to(parameter.dtype).view(-1, *[1] * (parameter.dim() - 1)))


def _divide_columns(model: nn.Module, layer: str, factor: Tensor) -> None:
    weight = model.get_parameter(f"{layer}.weight")
    weight.div_(factor.to(weight.dtype))
