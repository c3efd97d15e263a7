"""From a trained checkpoint to a quantised Hugging Face folder with its report."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from aspo_megatron.checkpoint.hf.folder import SafetensorsFolder, hf_shapes, weight_files
from aspo_megatron.checkpoint.hf_view import HfView
from aspo_megatron.checkpoint.torch_dist.manifest import read_manifest, verified_meanwhile
from aspo_megatron.checkpoint.torch_dist.reader import PieceReader
from aspo_megatron.config import RunConfig
from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import ConfigError
from aspo_megatron.folders import checkpoint_around
from aspo_megatron.inputs.read import Inputs
from aspo_megatron.models.family import Family
from aspo_megatron.models.mapping import TensorSource
from aspo_megatron.quantize import modelopt
from aspo_megatron.quantize.calibration import CalibrationTexts, calibration_texts
from aspo_megatron.quantize.change import OpenEngine, Probe, compare_accuracy, compare_log_probs, open_engine
from aspo_megatron.quantize.folder import DTYPE, read_back, write_model, written_beside
from aspo_megatron.quantize.formats import Format, Layout, group_size_of
from aspo_megatron.quantize.report import Report, by_kind
from aspo_megatron.quantize.smoothing import fold_scales
from aspo_megatron.rewards.workers.pool import RewardPool


@dataclass(frozen=True)
class Job:
    """What to do.

    Attributes:
        config: of the run; `model.path` names the model.
        run: folder of the run, with the responses it has recorded.
        target: the folder to make.
        format: of the weights.
        layout: how they are written, one of the format's.
        texts: how many to calibrate on.
        problems: how many to compare accuracy on.
        device: where to compute.
    """

    config: RunConfig
    run: Path
    target: Path
    format: Format
    layout: Layout
    texts: int
    problems: int
    device: torch.device


def quantize_model(job: Job, inputs: Inputs, tell: Callable[[str], None]) -> Report:
    """Quantise, measure what it changes, and write the folder with its report.

    Raises:
        UserError: the weights cannot be read, the model cannot be quantised so, or the folder cannot be written.
    """
    family, config = inputs.family, job.config
    group_size = _group_size(job.format, family)
    texts = calibration_texts(job.run, inputs.train, inputs.tokenizer, job.texts)
    asked, problems = _problems(inputs, job.problems)
    engine = open_engine(config.model.path, inputs, job.device, config.rollout.max_batch_tokens)
    size = _load(engine, config.model.path, family)
    with written_beside(job.target) as partial, RewardPool(config.reward) as rewards:
        tell(f"asking the original model {len(problems)} {asked} problems")
        probe = Probe(engine, inputs, problems, config.eval_sampling, config.seed)
        before = probe.behaviour(rewards)
        tell(f"calibrating on {len(texts.sequences)} texts of {texts.tokens} tokens")
        quantize_in_place(engine.model, job.format, group_size, texts)
        tell("asking the quantised model")
        after = probe.behaviour(rewards)
        model = engine.model
        layers, kept = by_kind(modelopt.quantized_layers(model)), by_kind(modelopt.kept_parameters(model))
        measured = {name: layer.weight.detach().clone() for name, layer in modelopt.quantized_layers(model).items()}
        write_model(partial, model, job.format, job.layout, group_size, config.model.path, family)
        report = Report(
            source=str(checkpoint_around(config.model.path) or config.model.path),
            format=job.format.name,
            layout=job.layout,
            group_size=group_size or None,
            modelopt=modelopt.version(),
            bytes_before=size,
            bytes_after=sum((partial / name).stat().st_size for name in weight_files(partial)),
            quantized=layers,
            kept=dict.fromkeys(kept, str(DTYPE).removeprefix("torch.")),
            calibration={
                "texts": len(texts.sequences),
                "with_response": texts.responses,
                "tokens": texts.tokens,
            },
            asked=asked,
            log_probs=compare_log_probs(before.log_probs, after.log_probs),
            accuracy=compare_accuracy(before.right, after.right),
            largest_difference=read_back(partial, measured),
        )
        report.write(partial)
    return report


def _group_size(form: Format, family: Family) -> int:
    if family.num_experts:
        raise ConfigError(f"{family.name}: models with experts cannot be quantised by this command yet")
    if form.name != "int4-awq":
        return 0
    return group_size_of([family.hidden_size, family.num_heads * family.head_dim, family.ffn_hidden_size])


def _problems(inputs: Inputs, count: int) -> tuple[str, list[Problem]]:
    """The problems to ask, and which they are: held-out ones, or the last of those to train on."""
    if inputs.heldout:
        return "held-out", inputs.heldout[:count]
    return "training", inputs.train[-count:]


def _load(engine: OpenEngine, folder: Path, family: Family) -> int:
    """Give the engine the weights of a folder or of the checkpoint around it; their bytes there."""
    size = 0

    def tensors(source: TensorSource) -> Iterator[tuple[str, Tensor]]:
        nonlocal size
        for name in hf_shapes(folder):
            tensor = source.read_whole(name)
            size += tensor.nbytes
            yield name, tensor

    with _weights(folder, family) as source:
        engine.update_weights(tensors(source), version=0)
    return size


@contextmanager
def _weights(folder: Path, family: Family) -> Iterator[TensorSource]:
    """The tensors of a Hugging Face folder, or of the checkpoint around it, whose checksums are compared."""
    checkpoint = checkpoint_around(folder)
    if checkpoint is None:
        with SafetensorsFolder(folder) as tensors:
            yield tensors
    else:
        with verified_meanwhile(checkpoint, read_manifest(checkpoint)), PieceReader(checkpoint, family) as reader:
            yield HfView(reader, family)


@torch.no_grad()
def quantize_in_place(model: nn.Module, form: Format, group_size: int, texts: CalibrationTexts) -> None:
    """Smooth, quantise, and give what is left the precision that it is written in: what a server will compute.

    Args:
        model: a dense Hugging Face decoder; changed.
        form: the format.
        group_size: of int4-awq, see `formats.group_size_of`.
        texts: to calibrate on.
    """
    if form.smoothing:
        fold_scales(model, modelopt.smoothing_scales(copy.deepcopy(model), form, group_size, texts.run))
    modelopt.quantize(model, form, group_size, texts.run)
    for parameter in modelopt.kept_parameters(model).values():
        parameter.copy_(parameter.to(DTYPE))
