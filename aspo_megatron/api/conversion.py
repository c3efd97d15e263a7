"""Conversion of models, for callers in Python and for `aspo convert`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from aspo_megatron.errors import ConfigError
from aspo_megatron.foreign_text import one_line

if TYPE_CHECKING:
    import torch

    from aspo_megatron.checkpoint.convert import OnBytes
    from aspo_megatron.config import ParallelConfig

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True)
class LayoutSizes:
    """The layout that a checkpoint is written for, see `convert`."""

    tp: int = 1
    pp: int = 1
    vpp: int = 1
    ep: int = 1
    etp: int | None = None
    pp_layers: tuple[int, ...] | None = None


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    tp: int = 1,
    pp: int = 1,
    vpp: int = 1,
    ep: int = 1,
    etp: int | None = None,
    pp_layers: Sequence[int] | None = None,
    dtype: str | None = None,
    verify: bool = False,
    progress: bool = True,
) -> Path:
    """Convert a Hugging Face folder to a megatron distributed checkpoint, or a checkpoint to a Hugging Face folder.

    Which of the two is told by the source. A checkpoint is what this or `aspo convert` has written, or the state of a
    run, `checkpoints/step-000010` in its folder; one of any layout can be loaded and converted. Tensors are taken one
    at a time. Meanwhile torch has one thread in this process.

    Args:
        source: Hugging Face folder with safetensors, or checkpoint.
        destination: Folder to make.
        tp: Tensor parallelism of the checkpoint: under its layout each rank finds its shards in one file.
        pp: Pipeline parallelism.
        vpp: Virtual stages of each pipeline rank.
        ep: Expert parallelism.
        etp: Tensor parallelism of experts; None: `tp`.
        pp_layers: Layers of each stage; None: as even as it goes.
        dtype: Precision to write, `float32`, `bfloat16` or `float16`; None: what is there, byte for byte.
        verify: Read everything again and compare every tensor bit for bit.
        progress: Show a bar on stderr, if that is a terminal.

    Returns:
        `destination`, which is complete: of a conversion that failed nothing is there.

    Raises:
        CheckpointError: The source cannot be used, the model has no such layout, the destination is there already or
            cannot be written, or a tensor that was compared differs.
        ConfigError: `dtype` is none of those, or a Hugging Face folder is to have a layout.

    Example:
        ```python
        checkpoint = convert("models/Qwen3-4B", "checkpoints/Qwen3-4B", tp=2, pp=2)
        convert("runs/mine/checkpoints/step-000100", "exported", dtype="bfloat16")
        ```
    """
    from aspo_megatron.folders import model_folder

    start, end = Path(source), Path(destination)
    sizes = LayoutSizes(tp, pp, vpp, ep, etp, None if pp_layers is None else tuple(pp_layers))
    if model_folder(start) == start:
        to_megatron(start, end, sizes, dtype=dtype, verify=verify, progress=progress)
    elif sizes == LayoutSizes():
        to_hugging_face(start, end, dtype=dtype, verify=verify, progress=progress)
    else:
        raise ConfigError(
            f"{one_line(start)} becomes a Hugging Face folder, which has no layout: leave out tp, pp and so on"
        )
    return end


def to_megatron(
    source: Path, target: Path, sizes: LayoutSizes, *, dtype: str | None, verify: bool, progress: bool
) -> tuple[ParallelConfig, int | None]:
    """A checkpoint of a Hugging Face folder; its layout, and how many tensors were compared. See `convert`."""
    from aspo_megatron.checkpoint import convert as conversion
    from aspo_megatron.models.family import read_family

    with _one_thread():
        layout = conversion.converter_layout(read_family(source), **asdict(sizes))
        precision = _precision(dtype)
        with _bar("convert", conversion.bytes_on_disk(source), progress) as on_bytes:
            conversion.hf_to_megatron(source, target, layout, precision, on_bytes)
        return layout, _compared(source, target, precision, progress) if verify else None


def to_hugging_face(source: Path, target: Path, *, dtype: str | None, verify: bool, progress: bool) -> int | None:
    """The Hugging Face folder of a checkpoint; how many tensors were compared. See `convert`."""
    from aspo_megatron.checkpoint import convert as conversion

    with _one_thread():
        precision = _precision(dtype)
        with _bar("convert", conversion.bytes_on_disk(source), progress) as on_bytes:
            conversion.megatron_to_hf(source, target, precision, on_bytes)
        return _compared(target, source, precision, progress) if verify else None


def _compared(hf_folder: Path, checkpoint: Path, dtype: torch.dtype | None, progress: bool) -> int:
    from aspo_megatron.checkpoint import convert as conversion

    with _bar("verify", conversion.bytes_on_disk(hf_folder), progress) as on_bytes:
        return conversion.compare(hf_folder, checkpoint, dtype, on_bytes)


def _precision(name: str | None) -> torch.dtype | None:
    import torch

    if name is None:
        return None
    if name not in DTYPES:
        raise ConfigError(f"dtype {one_line(name)}: must be one of {', '.join(DTYPES)}")
    dtype: torch.dtype = getattr(torch, name)
    return dtype


@contextmanager
def _one_thread() -> Iterator[None]:
    """Files are worked on side by side; tensors in parts by threads would only wait."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _bar(label: str, total: int, progress: bool) -> Iterator[OnBytes]:
    """A bar on a terminal, nothing elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    from aspo_megatron.metrics.console import drawn, shown_console

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    bar = Progress(
        *columns,
        TimeRemainingColumn(),
        console=shown_console(Console(stderr=True)),
        redirect_stdout=False,
        redirect_stderr=False,
        disable=not progress or not sys.stderr.isatty(),
    )
    with drawn(bar):
        task = bar.add_task(label, total=total)
        yield lambda count: bar.advance(task, count)
