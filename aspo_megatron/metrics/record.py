"""The files a run writes while it goes: metrics.jsonl, samples.jsonl and TensorBoard events."""

from __future__ import annotations

import json
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from aspo_megatron.errors import UserError
from aspo_megatron.metrics.wandb_run import WandbRun
from aspo_megatron.writing import plain_errors, write_whole

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

METRICS_FILE = "metrics.jsonl"
SAMPLES_FILE = "samples.jsonl"


class Recorder:
    """Writes the metrics and samples of a run, each line at once, so that a killed run loses none of them.

    An existing file is continued; a last line that a killed run has left unfinished is removed first. Numbers that
    JSON lacks are the strings "NaN", "Infinity" and "-Infinity", which `float` and `read_metrics` understand.
    """

    def __init__(
        self, run_dir: Path, tensorboard: bool, after_step: int | None = None, wandb: WandbRun | None = None
    ) -> None:
        """Open the files of `run_dir`, which is made if need be.

        Args:
            run_dir: the run folder.
            tensorboard: write TensorBoard events too.
            after_step: the run goes on after this step: what is there of later steps is removed, to be written again;
                -1 for all there is. None keeps everything.
            wandb: gets the metrics too, and is closed with the files.

        Raises:
            UserError: a file cannot be written, or `tensorboard` is wanted and not installed.
        """
        self._metrics_path = run_dir / METRICS_FILE
        self._samples_path = run_dir / SAMPLES_FILE
        self._tensorboard_path = run_dir / "tensorboard"
        with plain_errors(run_dir):
            run_dir.mkdir(parents=True, exist_ok=True)
            if after_step is not None:
                _cut_back(run_dir, after_step)
        self._metrics = _open_lines(self._metrics_path)
        self._samples: int | None = None
        self._events = _summary_writer(self._tensorboard_path, after_step) if tensorboard else None
        self._wandb = wandb

    def __enter__(self) -> Self:
        """Nothing more to open."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Close the files."""
        os.close(self._metrics)
        if self._samples is not None:
            os.close(self._samples)
        if self._events is not None:
            with plain_errors(self._tensorboard_path):
                self._events.close()
        if self._wandb is not None:
            self._wandb.close()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append the metrics of a step as one line; `step` is its first field.

        Raises:
            UserError: the disk is full, or the file cannot be written for another reason.
        """
        if "step" in values:
            raise ValueError("`step` is the line's own field, not a metric")
        numbers = {name: float(value) for name, value in values.items()}
        _append(self._metrics, self._metrics_path, {"step": step, **numbers})
        if self._events is not None:
            with plain_errors(self._tensorboard_path):
                for name, number in numbers.items():
                    self._events.add_scalar(name, number, step)
        if self._wandb is not None:
            self._wandb.log(step, numbers)

    def log_samples(self, step: int, records: Iterable[Mapping[str, Any]]) -> None:
        """Append one line a sample, `step` its first field. Values: what JSON has, and NumPy numbers and arrays.

        Raises:
            UserError: the disk is full, or the file cannot be written for another reason.
        """
        if self._samples is None:
            self._samples = _open_lines(self._samples_path)
        for record in records:
            _append(self._samples, self._samples_path, {"step": step, **record})

    def flush(self) -> None:
        """Have all that was logged on the disk when this returns: a checkpoint is about to count on it.

        Raises:
            UserError: it cannot be written.
        """
        with plain_errors(self._metrics_path):
            os.fsync(self._metrics)
            if self._samples is not None:
                os.fsync(self._samples)
        if self._events is not None:
            with plain_errors(self._tensorboard_path):
                self._events.flush()


def read_metrics(path: Path) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl, by step; of a step that was done again after a resume, the last line.

    An unfinished last line is left out: the run may be writing it.

    Raises:
        UserError: no such file, or another line is not a metrics line.
    """
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file; is this a run folder?") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from error
    by_step: dict[float, dict[str, float]] = {}
    for number, line in enumerate(lines[:-1], start=1):  # what follows the last newline is unfinished, or nothing
        try:
            values = {name: float(value) for name, value in json.loads(line).items()}
            by_step[values["step"]] = values
        except (ValueError, TypeError, AttributeError, KeyError) as error:
            raise UserError(f"{path}, line {number}: not a line of metrics: {line[:60]!r}") from error
    return [by_step[step] for step in sorted(by_step)]


def _cut_back(run_dir: Path, step: int) -> None:
    """Remove lines and evaluations of later steps than `step`. TensorBoard is told to, when its writer opens."""
    for path in (run_dir / METRICS_FILE, run_dir / SAMPLES_FILE):
        if not path.is_file():
            continue
        lines = path.read_bytes().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith(b"\n") and json.loads(line)["step"] <= step]
        if kept != lines:
            write_whole(path, b"".join(kept))
    if step < 0:
        shutil.rmtree(run_dir / "tensorboard", ignore_errors=True)
    for path in (run_dir / "eval").glob("step-*.jsonl"):
        if int(path.stem.removeprefix("step-")) > step:
            path.unlink()


def _open_lines(path: Path) -> int:
    """A file descriptor that appends to `path`, after its last whole line.

    Unbuffered: a Python file object would try to write a line that the full disk refused once more on closing.
    """
    with plain_errors(path):
        if path.is_file():
            with path.open("r+b") as file:
                file.truncate(file.read().rfind(b"\n") + 1)
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)


def _append(descriptor: int, path: Path, record: Mapping[str, Any]) -> None:
    line = json.dumps(_strict(record), ensure_ascii=False, allow_nan=False) + "\n"
    data = line.encode("utf-8", errors="backslashreplace")
    with plain_errors(path):
        while data:
            data = data[os.write(descriptor, data) :]


def _strict(value: Any) -> Any:
    """A value as strict JSON has it."""
    if isinstance(value, Mapping):
        return {str(name): _strict(child) for name, child in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _strict(value.tolist())
    if isinstance(value, list | tuple):
        return [_strict(child) for child in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _summary_writer(path: Path, after_step: int | None) -> SummaryWriter:
    try:
        from torch.utils.tensorboard.writer import SummaryWriter
    except ImportError as error:
        raise UserError(
            "log.tensorboard is true, but the package `tensorboard` is not installed: "
            "install it, or set log.tensorboard=false"
        ) from error
    with plain_errors(path):
        return SummaryWriter(str(path), purge_step=None if after_step is None else after_step + 1)
