"""`aspo quantize`: a trained model with weights of 8 or 4 bits, for servers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
        Path | None, typer.Option(help="The run's config.yaml, whose prompts are used; by default the one above MODEL.")
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

    It needs an extra package: pip install 'aspo-megatron[quantize]'.
    """
    from aspo_megatron.quantize import modelopt
    from aspo_megatron.quantize.formats import chosen_format

    form, written_as = chosen_format(format_name, layout)
    modelopt.check_available()

    from aspo_megatron.quantize.run import Quantization, quantize_model

    quantization = Quantization.of_model(
        model, target, overrides or [], form, written_as, config=config, texts=prompts, problems=problems
    )
    show(quantize_model(quantization, say).text())
    show(f"{one_line(target)}: written")
