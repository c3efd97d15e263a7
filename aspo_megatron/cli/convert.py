"""`aspo convert`: Hugging Face folders to megatron distributed checkpoints and back. Used by tools/ too."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line
from aspo_megatron.streams import show

if TYPE_CHECKING:
    import torch

    from aspo_megatron.checkpoint.convert import OnBytes

app = typer.Typer(help="Convert model folders to megatron checkpoints and back.", no_args_is_help=True)

_DTYPES = ("float32", "bfloat16", "float16")
_Dtype = Annotated[str | None, typer.Option(help=f"Precision to write: {', '.join(_DTYPES)}; else what is there.")]
_Verify = Annotated[bool, typer.Option("--verify", help="Read everything again and compare every tensor.")]


@app.command("hf-to-megatron")
def hf_to_megatron(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Hugging Face folder: config.json, safetensors.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder to make.")],
    tp: Annotated[int, typer.Option(min=1, help="Tensor parallelism.")] = 1,
    pp: Annotated[int, typer.Option(min=1, help="Pipeline parallelism.")] = 1,
    vpp: Annotated[int, typer.Option(min=1, help="Virtual stages of each pipeline rank.")] = 1,
    ep: Annotated[int, typer.Option(min=1, help="Expert parallelism.")] = 1,
    etp: Annotated[int | None, typer.Option(min=1, help="Tensor parallelism of experts; else tp.")] = None,
    pp_layers: Annotated[str | None, typer.Option(help="Layers of each stage, e.g. 13,15.")] = None,
    dtype: _Dtype = None,
    verify: _Verify = False,
) -> None:
    """Write a megatron distributed checkpoint, with a file for each rank of the layout.

    Any layout can load it; under the one named here each rank finds its own shards in one file.

    \b
      aspo convert hf-to-megatron models/Qwen3-4B checkpoints/Qwen3-4B --tp 2 --pp 2
    """
    import torch

    from aspo_megatron.checkpoint import convert
    from aspo_megatron.models.family import read_family

    torch.set_num_threads(1)  # files are worked on side by side; tensors in parts by threads would only wait
    layers = None if pp_layers is None else _numbers(pp_layers)
    family = read_family(source)
    layout = convert.converter_layout(family, tp=tp, pp=pp, vpp=vpp, ep=ep, etp=etp, pp_layers=layers)
    precision = _precision(dtype)
    with _progress("convert", convert.bytes_on_disk(source)) as on_bytes:
        convert.hf_to_megatron(source, target, layout, precision, on_bytes)
    if verify:
        _compare(source, target, precision)
    show(f"{one_line(target)}: written for {layout.world_size} ranks")


@app.command("megatron-to-hf")
def megatron_to_hf(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="Checkpoint, e.g. RUN/checkpoints/step-000010.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder to make.")],
    dtype: _Dtype = None,
    verify: _Verify = False,
) -> None:
    """Write the Hugging Face folder of a checkpoint that this command or a run has written, of any layout.

    \b
      aspo convert megatron-to-hf runs/tiny/checkpoints/step-000020 exported
    """
    import torch

    from aspo_megatron.checkpoint import convert

    torch.set_num_threads(1)
    precision = _precision(dtype)
    with _progress("convert", convert.bytes_on_disk(source)) as on_bytes:
        convert.megatron_to_hf(source, target, precision, on_bytes)
    if verify:
        _compare(target, source, precision)
    show(f"{one_line(target)}: written")


def _compare(hf_folder: Path, checkpoint: Path, dtype: torch.dtype | None) -> None:
    from aspo_megatron.checkpoint import convert

    with _progress("verify", convert.bytes_on_disk(hf_folder)) as on_bytes:
        count = convert.compare(hf_folder, checkpoint, dtype, on_bytes)
    show(f"verified: {count} tensors are the same bit for bit")


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ConfigError(f"--pp-layers {one_line(text)}: must be whole numbers, such as 13,15") from error


def _precision(name: str | None) -> torch.dtype | None:
    import torch

    if name is None:
        return None
    if name not in _DTYPES:
        raise ConfigError(f"--dtype {one_line(name)}: must be one of {', '.join(_DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


@contextmanager
def _progress(label: str, total: int) -> Iterator[OnBytes]:
    """A bar on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from aspo_megatron.metrics.shown import drawn, shown_console

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(
        *columns,
        TimeRemainingColumn(),
        console=shown_console(Console(stderr=True)),
        redirect_stdout=False,
        redirect_stderr=False,
        disable=not sys.stderr.isatty(),
    )
    with drawn(bar):
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)
