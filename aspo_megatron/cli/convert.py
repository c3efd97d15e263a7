"""`aspo convert`: Hugging Face folders to megatron distributed checkpoints and back. Used by tools/ too."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aspo_megatron.api.conversion import DTYPES
from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import counted, one_line
from aspo_megatron.streams import show

app = typer.Typer(help="Convert model folders to megatron checkpoints and back.", no_args_is_help=True)

_Dtype = Annotated[str | None, typer.Option(help=f"Precision to write: {', '.join(DTYPES)}; by default that of SRC.")]
_Verify = Annotated[bool, typer.Option("--verify", help="Read everything again and compare every tensor.")]


@app.command("hf-to-megatron", short_help="Write a megatron checkpoint from a Hugging Face folder.")
def hf_to_megatron(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Hugging Face folder: config.json, safetensors.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder to make.")],
    tp: Annotated[int, typer.Option(min=1, help="Tensor parallelism.")] = 1,
    pp: Annotated[int, typer.Option(min=1, help="Pipeline parallelism.")] = 1,
    vpp: Annotated[int, typer.Option(min=1, help="Virtual stages of each pipeline rank.")] = 1,
    ep: Annotated[int, typer.Option(min=1, help="Expert parallelism.")] = 1,
    etp: Annotated[int | None, typer.Option(min=1, help="Tensor parallelism of experts; by default tp.")] = None,
    pp_layers: Annotated[str | None, typer.Option(help="Layers of each stage, e.g. 13,15.")] = None,
    dtype: _Dtype = None,
    verify: _Verify = False,
) -> None:
    """Write a megatron distributed checkpoint, with a file for each rank of the layout.

    Any layout can load it; under the one named here each rank finds its own shards in one file.

    \b
      aspo convert hf-to-megatron models/Qwen3-4B checkpoints/Qwen3-4B --tp 2 --pp 2
    """
    from aspo_megatron.api.conversion import LayoutSizes, to_megatron

    sizes = LayoutSizes(tp, pp, vpp, ep, etp, None if pp_layers is None else _numbers(pp_layers))
    layout, compared = to_megatron(source, target, sizes, dtype=dtype, verify=verify, progress=True)
    _show_compared(compared)
    show(f"{one_line(target)}: written for {counted(layout.world_size, 'rank')}")


@app.command("megatron-to-hf", short_help="Write a Hugging Face folder from a checkpoint.")
def megatron_to_hf(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Checkpoint, e.g. RUN/checkpoints/step-000010.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder to make.")],
    dtype: _Dtype = None,
    verify: _Verify = False,
) -> None:
    """Write a Hugging Face folder from a checkpoint of any layout that this command or a run has written.

    \b
      aspo convert megatron-to-hf runs/tiny/checkpoints/step-000020 exported
    """
    from aspo_megatron.api.conversion import to_hugging_face

    _show_compared(to_hugging_face(source, target, dtype=dtype, verify=verify, progress=True))
    show(f"{one_line(target)}: written")


def _show_compared(count: int | None) -> None:
    if count is not None:
        show(f"verified: {count} tensors are identical bit for bit")


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(f"--pp-layers {one_line(text)}: must be whole numbers, such as 13,15") from error
