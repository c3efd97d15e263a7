"""From a trained checkpoint to a quantised Hugging Face folder with its report."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from aspo_megatron.checkpoint.hf.folder import hf_shapes, weight_files
from aspo_megatron.checkpoint.source import weights_of
from aspo_megatron.checkpoint.torch_dist.manifest import read_manifest
from aspo_megatron.checkpoint.torch_dist.verification import verified_meanwhile
from aspo_megatron.config import ParallelConfig, RunConfig
from aspo_megatron.config.io import load_config
from aspo_megatron.data.samples import Problem
from aspo_megatron.errors import ConfigError
from aspo_megatron.folders import RUN_CONFIG, SAMPLES_FILE, checkpoint_around
from aspo_megatron.inputs.read import Inputs, read_inputs
from aspo_megatron.models.family import Family
from aspo_megatron.models.hub_name import missing
from aspo_megatron.models.mapping import TensorSource
from aspo_megatron.parallel.device.platform import choose_platform
from aspo_megatron.quantize import modelopt
from aspo_megatron.quantize.calibration import CalibrationTexts, calibration_texts
from aspo_megatron.quantize.change import OpenEngine, Probe, compare_accuracy, compare_log_probs, open_engine
from aspo_megatron.quantize.folder import DTYPE, read_back, refuse_target, write_model, written_beside
from aspo_megatron.quantize.formats import Format, Layout, group_size_of
from aspo_megatron.quantize.report import Report, by_kind
from aspo_megatron.quantize.smoothing import fold_scales
from aspo_megatron.rewards.workers.pool import RewardPool


@dataclass(frozen=True)
class Quantization:
    """What to quantise, and how.

    Attributes:
        config: of the run; `model.path` names the model.
        inputs: what the run reads.
        run: folder of the run, with the responses it has recorded.
        target: the folder to make.
        format: of the weights.
        layout: how they are written, one of the format's.
        texts: how many to calibrate on.
        problems: how many to compare accuracy on.
        device: where to compute.
    """

    config: RunConfig
    inputs: Inputs
    run: Path
    target: Path
    format: Format
    layout: Layout
    texts: int
    problems: int
    device: torch.device

    @classmethod
    def of_model(
        cls,
        model: Path,
        target: Path,
        overrides: Sequence[str],
        form: Format,
        layout: Layout,
        *,
        config: Path | None,
        texts: int,
        problems: int,
    ) -> Quantization:
        """Of a model that a run has made, on one process; all input is read and checked.

        Args:
            model: Hugging Face folder, or a checkpoint of a run.
            target: the folder to make.
            overrides: `key=value` words that replace the run's settings.
            form: of the weights.
            layout: how they are written.
            config: the run's config.yaml; None: that in a folder above `model`.
            texts: how many to calibrate on.
            problems: how many to compare accuracy on.

        Raises:
            UserError: the model or its run cannot be used, or something is at `target`.
        """
        refuse_target(target)
        if not os.path.isdir(model):
            raise ConfigError(missing(model))
        path = config or _config_above(model)
        settings = [f"model.path={model}", "model.init=pretrained", "warmup.updates=0"]
        settings += [f"parallel={ParallelConfig().model_dump_json()}", "rollout.engine=embedded", "log.wandb=none"]
        run = load_config(path, [*settings, *overrides])
        inputs = read_inputs(run)
        device = choose_platform(run.platform.device, local_rank=0, threads=run.platform.threads_per_rank).device
        recorded = path.parent if os.path.isfile(path.parent / SAMPLES_FILE) else run.output_dir
        return cls(run, inputs, recorded, target, form, layout, texts, problems, device)


def _config_above(model: Path) -> Path:
    """The config.yaml of the run that a model is from: RUN/hf, RUN/exports/step-N, RUN/checkpoints/step-N.

    Raises:
        ConfigError: there is none.
    """
    for folder in model.absolute().parents[:2]:
        if os.path.isfile(folder / RUN_CONFIG):
            return folder / RUN_CONFIG
    raise ConfigError(f"{model}: no config.yaml of its run in the folders above; give --config RUN/config.yaml")


def quantize_model(quantization: Quantization, tell: Callable[[str], None]) -> Report:
    """Quantise, measure what it changes, and write the folder with its report.

    Raises:
        UserError: the weights cannot be read, the model cannot be quantised so, or the folder cannot be written.
    """
    config, inputs = quantization.config, quantization.inputs
    family = inputs.family
    group_size = _group_size(quantization.format, family)
    texts = calibration_texts(quantization.run, inputs.train, inputs.tokenizer, quantization.texts)
    asked, problems = _problems(inputs, quantization.problems)
    engine = open_engine(config.model.path, inputs, quantization.device, config.rollout.max_batch_tokens)
    size = _load(engine, config.model.path, family)
    with written_beside(quantization.target) as partial, RewardPool(config.reward) as rewards:
        tell(f"asking the original model {len(problems)} {asked} problems")
        probe = Probe(engine, inputs, problems, config.eval_sampling, config.seed)
        before = probe.behaviour(rewards)
        tell(f"calibrating on {len(texts.sequences)} texts of {texts.tokens} tokens")
        quantize_in_place(engine.model, quantization.format, group_size, texts)
        tell("asking the quantised model")
        after = probe.behaviour(rewards)
        model = engine.model
        layers, kept = by_kind(modelopt.quantized_layers(model)), by_kind(modelopt.kept_parameters(model))
        measured = {name: layer.weight.detach().clone() for name, layer in modelopt.quantized_layers(model).items()}
        write_model(partial, model, quantization.format, quantization.layout, group_size, config.model.path, family)
        report = Report(
            source=str(checkpoint_around(config.model.path) or config.model.path),
            format=quantization.format.name,
            layout=quantization.layout,
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
    verified = nullcontext() if checkpoint is None else verified_meanwhile(checkpoint, read_manifest(checkpoint))
    with verified, weights_of(folder, family) as source:
        yield source


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
