"""`aspo quantize`: a trained model with weights of 8 or 4 bits, for servers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.streams import say, show


def quantize(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="Hugging Face folder, e.g. RUN/hf, or a checkpoint of a run.")
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder to make.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings that replace the run's.")
    ] = None,
    format_name: Annotated[str, typer.Option("--format", help="fp8, int8, int4-awq, or nvfp4.")] = "fp8",
    config: Annotated[
        Path | None, typer.Option(help="The run's config.yaml, whose prompts are used; else that above MODEL.")
    ] = None,
    prompts: Annotated[int, typer.Option(min=1, help="Texts to calibrate on.")] = 128,
    problems: Annotated[int, typer.Option(min=1, help="Held-out problems to compare accuracy on.")] = 64,
    layout: Annotated[
        str | None,
        typer.Option(help="compressed-tensors, which most programs read, or modelopt (fp8, nvfp4)."),
    ] = None,
) -> None:
    """Quantise a model with NVIDIA ModelOpt, calibrated on its run's own prompts, and say what that changes.

    DST is a Hugging Face folder for SGLang, with the report in quantization.json (docs/quantization.md).

    \b
      aspo quantize runs/quickstart/hf quickstart-fp8
      aspo quantize runs/quickstart/checkpoints/step-000010 quickstart-int4 --format int4-awq
      aspo quantize MODEL DST --config runs/quickstart/config.yaml --problems 200

    It wants a package more: pip install 'aspo-megatron[quantize]'.
    """
    from aspo_megatron.quantize import modelopt
    from aspo_megatron.quantize.formats import FORMATS

    if format_name not in FORMATS:
        raise ConfigError(f"--format {one_line(format_name)}: known are {', '.join(FORMATS)}")
    form = FORMATS[format_name]
    layouts = {name: name for name in form.layouts}
    if layout is not None and layout not in layouts:
        raise ConfigError(f"--layout {one_line(layout)}: {format_name} is written as {' or '.join(layouts)}")
    modelopt.check_available()

    from aspo_megatron.config import ParallelConfig
    from aspo_megatron.config.io import load_config
    from aspo_megatron.folders import SAMPLES_FILE
    from aspo_megatron.inputs.read import read_inputs
    from aspo_megatron.parallel.device.platform import choose_platform
    from aspo_megatron.quantize.folder import refuse_target
    from aspo_megatron.quantize.run import Job, quantize_model

    refuse_target(target)
    if not os.path.isdir(model):
        raise ConfigError(f"{one_line(model)}: no such folder")
    path = config or _config_above(model)
    settings = [f"model.path={model}", "model.init=pretrained", "warmup.updates=0"]
    settings += [f"parallel={ParallelConfig().model_dump_json()}", "rollout.engine=embedded", "log.wandb=none"]
    run = load_config(path, [*settings, *(overrides or [])])
    inputs = read_inputs(run)
    device = choose_platform(run.platform.device, local_rank=0, threads=run.platform.threads_per_rank).device
    chosen = layouts[layout] if layout else form.layouts[0]
    recorded = path.parent if os.path.isfile(path.parent / SAMPLES_FILE) else run.output_dir
    job = Job(run, recorded, target, form, chosen, prompts, problems, device)
    report = quantize_model(job, inputs, say)
    show(report.text())
    show(f"{one_line(target)}: written")


def _config_above(model: Path) -> Path:
    """The config.yaml of the run that a model is from: RUN/hf, RUN/exports/step-N, RUN/checkpoints/step-N.

    Raises:
        ConfigError: there is none.
    """
    for folder in model.absolute().parents[:2]:
        if os.path.isfile(folder / "config.yaml"):
            return folder / "config.yaml"
    raise ConfigError(f"{model}: no config.yaml of its run in the folders above; give --config RUN/config.yaml")
