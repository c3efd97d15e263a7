"""The folder of a quantised model: written beside its place, read back, and then given its name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder, weight_files, write_folder
from aspo_megatron.checkpoint.torch_dist.sidecar import sidecar_files
from aspo_megatron.errors import CheckpointError
from aspo_megatron.models.family import Family
from aspo_megatron.quantize import modelopt
from aspo_megatron.quantize.formats import Format, Layout, pack, quantization_config, unpack
from aspo_megatron.reading import read_json

DTYPE = torch.bfloat16
"""Precision of what stays unquantised, and of a server's activations."""

_LARGEST_DIFFERENCE = 1e-6
"""Rounding of fp32, relative to a tensor's largest weight."""


def refuse_target(target: Path) -> None:
    """See that a folder can be made.

    Raises:
        CheckpointError: there is something.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise CheckpointError(f"{target} exists already; choose another place or remove it")


@contextmanager
def written_beside(target: Path) -> Iterator[Path]:
    """A folder that gets the name `target` when the block is done; nothing is left of it otherwise."""
    work = target.with_name(target.name + ".partial")
    try:
        shutil.rmtree(work, ignore_errors=True)
        (work / "hf").mkdir(parents=True)
        yield work / "hf"
        (work / "hf").rename(target)
    except OSError as error:
        raise CheckpointError(f"{target}: could not be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def write_model(
    folder: Path, model: nn.Module, form: Format, layout: Layout, group_size: int, source: Path, family: Family
) -> None:
    """Write what `quantize_in_place` has made as a Hugging Face folder. With the layout modelopt `model` is spoilt.

    Args:
        folder: there, and empty.
        model: quantised.
        form: its format.
        layout: one of the format's.
        group_size: as it was quantised with.
        source: the folder of the original, with its configuration and tokenizer.
        family: the original's.
    """
    if layout == "modelopt":
        kept = modelopt.kept_parameters(model)
        modelopt.export(model, folder)
        _cast(folder, kept)
        for path in sidecar_files(source):
            if not (folder / path.name).exists():
                shutil.copyfile(path, folder / path.name)
        return
    config = family.exported_config(str(DTYPE).removeprefix("torch."))
    config["quantization_config"] = quantization_config(form.name, group_size, ["lm_head"])
    folder.rmdir()
    write_folder(folder, _tensors(model, form), config, source)


def _cast(folder: Path, names: Collection[str]) -> None:
    """Give these tensors of a folder the precision of what is not quantised: modelopt leaves them in the model's."""
    for file in weight_files(folder):
        tensors = load_file(folder / file)
        changed = {name: tensors[name].to(DTYPE) for name in tensors if name in names}
        save_file(tensors | changed, folder / file, metadata={"format": "pt"})
    config = read_json(folder / "config.json", CheckpointError)
    config["dtype"] = str(DTYPE).removeprefix("torch.")
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _tensors(model: nn.Module, form: Format) -> Iterator[tuple[str, Tensor]]:
    layers = modelopt.quantized_layers(model)
    for name, parameter in model.named_parameters():
        layer = layers.get(name.removesuffix(".weight"))
        if layer is None:
            yield name, parameter.to(DTYPE)
            continue
        packed = pack(form.name, layer.weight, layer.weight_quantizer.amax, layer.input_quantizer.amax)
        for part, tensor in packed.items():
            yield f"{name.removesuffix('weight')}{part}", tensor


def read_back(folder: Path, measured: dict[str, Tensor]) -> float:
    """Read the written weights; their largest difference to those measured, relative to a tensor's largest.

    Raises:
        CheckpointError: it is more than rounding.
    """
    worst = 0.0
    with SafetensorsFolder(folder) as source:
        names = set(source.names())
        for name, weight in measured.items():
            parts = ("weight", "weight_packed", "weight_scale", "weight_scale_2", "weight_shape")
            there = {part: source.read_whole(f"{name}.{part}") for part in parts if f"{name}.{part}" in names}
            expected = weight.cpu().float()
            difference = (unpack(there) - expected).abs().max().item() / max(expected.abs().max().item(), 1e-30)
            tolerance = _LARGEST_DIFFERENCE if weight.dtype == torch.float32 else torch.finfo(weight.dtype).eps
            if not difference <= tolerance:
                raise CheckpointError(
                    f"{folder}: {name}.weight, read back, differs by {difference:.1e} from what was measured"
                )
            worst = max(worst, difference)
    return worst
