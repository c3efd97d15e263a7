"""All that touches NVIDIA ModelOpt, which is optional and takes seconds to import."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aspo_megatron.errors import CheckpointError, ConfigError
from aspo_megatron.quantize import nvfp4
from aspo_megatron.quantize.formats import Format, rounded_amax

Forward = Callable[[nn.Module], None]
"""Runs the calibration texts through a model."""

_SMOOTHQUANT_ALPHA = 0.5
"""How much of the activations' range goes into the weights: half of it, as in SmoothQuant's paper (2211.10438)."""

_NVFP4 = "aspo-nvfp4"

_SAME_INPUT = (("self_attn", ("q_proj", "k_proj", "v_proj")), ("mlp", ("gate_proj", "up_proj")))


def check_available() -> None:
    """See that modelopt is there.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec("modelopt") is None:
        raise ConfigError("nvidia-modelopt is not installed: pip install 'aspo-megatron[quantize]'")


def smoothing_scales(model: nn.Module, form: Format, group_size: int, forward: Forward) -> dict[str, Tensor]:
    """Factors for the input channels of every layer, [in], as SmoothQuant or AWQ choose them. `model` is spoilt."""
    if form.smoothing == "smoothquant":
        algorithm: dict[str, Any] = {"method": "smoothquant", "alpha": _SMOOTHQUANT_ALPHA}
        config = _config("INT8_SMOOTHQUANT_CFG", algorithm)
    else:
        config = _grouped(_config("INT4_AWQ_CFG", None), group_size)
    _quantize(model, config, forward)
    scales = {}
    for name, layer in quantized_layers(model).items():
        found = layer.input_quantizer.pre_quant_scale
        scales[name] = torch.ones(layer.in_features) if found is None else found.detach().float().flatten()
    return scales


@torch.no_grad()
def quantize(model: nn.Module, form: Format, group_size: int, forward: Forward) -> None:
    """Make a model compute as if it were quantised: its linear layers but for the output projection.

    `model` is changed in place: inputs are rounded as a server rounds them, and weights hold the rounded values.
    """
    match form.name:
        case "fp8":
            config = _config("FP8_DEFAULT_CFG", "max")
        case "int8":  # servers take the scale of each token's activations from the token
            config = _config("INT8_SMOOTHQUANT_CFG", "max")
            _entry(config, "*input_quantizer")["cfg"] |= {"type": "dynamic", "block_sizes": {-1: None}}
        case "int4-awq":
            config = _grouped(_config("INT4_AWQ_CFG", "max"), group_size)
        case "nvfp4":
            config = _config("NVFP4_DEFAULT_CFG", None)
            for quantizers in ("*weight_quantizer", "*input_quantizer"):
                _entry(config, quantizers)["cfg"]["backend"] = _nvfp4_backend()
    _quantize(model, config, forward)
    if form.name in ("fp8", "nvfp4"):
        _share_scales(model)
    for name, layer in quantized_layers(model).items():
        quantizer = layer.weight_quantizer
        if quantizer.amax is not None:
            quantizer.amax = rounded_amax(form.name, quantizer.amax)
        weight = quantizer(layer.weight)
        if not torch.isfinite(weight).all():
            raise CheckpointError(f"{name}.weight: holds values that are not finite")
        layer.weight.copy_(weight)
        quantizer.disable()


def quantized_layers(model: nn.Module) -> dict[str, Any]:
    """The layers that `quantize` has changed, by name."""
    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and getattr(layer, "weight_quantizer", None) is not None
        if layer.weight_quantizer.amax is not None
        or layer.weight_quantizer.is_enabled
        or layer.input_quantizer.is_enabled
    }


def kept_parameters(model: nn.Module) -> dict[str, Tensor]:
    """The parameters that are not quantised, by name; tied ones once."""
    quantized = {f"{name}.weight" for name in quantized_layers(model)}
    return {name: value for name, value in model.named_parameters() if name not in quantized}


def export(model: nn.Module, folder: Path) -> None:
    """Write the weights and configuration in modelopt's own layout. `model` is spoilt."""
    with _quietly(), contextlib.redirect_stderr(io.StringIO()):  # where it shows progress
        from modelopt.torch.export import export_hf_checkpoint

        for layer in quantized_layers(model).values():
            layer.weight_quantizer.enable()
        export_hf_checkpoint(model, export_dir=folder)


def version() -> str:
    """Of modelopt."""
    from importlib.metadata import version as installed

    return installed("nvidia-modelopt")


def _quantize(model: nn.Module, config: dict[str, Any], forward: Forward) -> None:
    with _quietly():
        import modelopt.torch.quantization as mtq

        mtq.quantize(model, config, forward)


def _config(name: str, algorithm: str | dict[str, Any] | None) -> dict[str, Any]:
    """A copy of modelopt's configuration `name`; None keeps its algorithm."""
    with _quietly():
        import modelopt.torch.quantization as mtq
    config: dict[str, Any] = copy.deepcopy(getattr(mtq, name))
    return config if algorithm is None else config | {"algorithm": algorithm}


def _entry(config: dict[str, Any], quantizers: str) -> dict[str, Any]:
    (found,) = [each for each in config["quant_cfg"] if each["quantizer_name"] == quantizers and "cfg" in each]
    entry: dict[str, Any] = found
    return entry


def _nvfp4_backend() -> str:
    """The name by which modelopt finds what rounds to NVFP4 on any device; its own does on GPUs alone."""
    with _quietly():
        from modelopt.torch.quantization.nn import register_quant_backend

        register_quant_backend(_NVFP4, lambda values, quantizer: nvfp4.rounded(values, quantizer.amax))
    return _NVFP4


def _grouped(config: dict[str, Any], group_size: int) -> dict[str, Any]:
    _entry(config, "*weight_quantizer")["cfg"]["block_sizes"][-1] = group_size
    return config


def _share_scales(model: nn.Module) -> None:
    """Give layers with the same input one scale: servers compute them as one layer."""
    layers = quantized_layers(model)
    for name, _ in model.named_modules():
        for parent, children in _SAME_INPUT:
            if not name.endswith(f".{parent}"):
                continue
            group = [layers[f"{name}.{child}"] for child in children]
            for kind in ("weight_quantizer", "input_quantizer"):
                quantizers = [getattr(layer, kind) for layer in group]
                largest = torch.stack([quantizer.amax for quantizer in quantizers]).amax(dim=0)
                for quantizer in quantizers:
                    quantizer.amax = largest


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Without what modelopt prints, and its warnings about packages that it can do without."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield
