"""The files a run writes while it goes: metrics.jsonl, samples.jsonl, eval/ and TensorBoard events."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from aspo_megatron.errors import UserError
from aspo_megatron.files import json_line, plain_errors, write_whole
from aspo_megatron.folders import METRICS_FILE, SAMPLES_FILE, TENSORBOARD
from aspo_megatron.foreign_text import one_line, placed
from aspo_megatron.metrics.damaged_lines import Line, named, read_lines
from aspo_megatron.metrics.events import EventFile
from aspo_megatron.metrics.line_file import LineFile
from aspo_megatron.metrics.truncate_on_resume import cut_back
from aspo_megatron.metrics.wandb_run import WandbRun
from aspo_megatron.streams import say

MOST_WAITING = 64 << 20
"""Bytes that may wait in memory for room on the disk."""


class Recorder:
    """Writes the metrics and samples of a run, each line at once, so that a killed run loses none of them.

    An existing file is continued; a last line that a killed run has left unfinished is removed first. Numbers that
    JSON lacks are the strings "NaN", "Infinity" and "-Infinity", which `float` and `read_metrics` understand.

    A disk without room costs a warning: what could not be written waits in memory, and is written, in its order, when
    something is logged or `flush` is called. TensorBoard and wandb get nothing more once they have failed.
    """

    def __init__(
        self,
        run_dir: Path,
        tensorboard: bool,
        after_step: int | None = None,
        wandb: WandbRun | None = None,
        warn: Callable[[str], None] = say,
    ) -> None:
        """Open the files of `run_dir`, which is made if need be.

        Args:
            run_dir: the run folder.
            tensorboard: write TensorBoard events too.
            after_step: the run resumes after this step: what is there of later steps is removed, to be written again;
                -1 for all there is. None keeps everything.
            wandb: gets the metrics too, and is closed with the files.
            warn: is told what is not written, and of damaged lines that are set aside.

        Raises:
            UserError: a file cannot be written, or `tensorboard` is wanted and not installed.
        """
        self._tensorboard_path = run_dir / TENSORBOARD
        self._warn = warn
        with plain_errors(run_dir):
            run_dir.mkdir(parents=True, exist_ok=True)
            if after_step is not None:
                cut_back(run_dir, after_step, warn)
        self._metrics = LineFile(run_dir / METRICS_FILE)
        self._samples = LineFile(run_dir / SAMPLES_FILE)
        self._files: dict[Path, bytes] = {}
        self._failing = False
        with plain_errors(self._metrics.path):
            self._metrics.write()
        self._events = EventFile(self._tensorboard_path, after_step) if tensorboard else None
        self._wandb = wandb

    def __enter__(self) -> Self:
        """Nothing more to open."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Write what waits, and close the files.

        Raises:
            UserError: there is no room for it, and nothing else was raised.
        """
        failure = self._write()
        for lines in (self._metrics, self._samples):
            with suppress(OSError):  # some file systems tell of an earlier error once more
                lines.close()
        if self._events is not None:
            with suppress(OSError):
                self._events.close()
        if self._wandb is not None:
            self._to_wandb(lambda wandb: wandb.close())
        if failure is not None and error is None:
            raise failure

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Append the metrics of a step as one line; `step` is its first field.

        Raises:
            UserError: too much waits for room on the disk.
        """
        if "step" in values:
            raise ValueError("`step` is the line's own field, not a metric")
        numbers = {name: float(value) for name, value in values.items()}
        self._metrics.add(_line({"step": step, **numbers}))
        self._write_or_wait()
        if self._events is not None:
            try:
                self._events.log(step, numbers)
            except OSError as error:
                self._without_tensorboard(error)
        if self._wandb is not None:
            self._to_wandb(lambda wandb: wandb.log(step, numbers))

    def log_samples(self, step: int, records: Iterable[Mapping[str, Any]]) -> None:
        """Append one line a sample, `step` its first field. Values: what JSON has, and NumPy numbers and arrays.

        Raises:
            UserError: too much waits for room on the disk.
        """
        for record in records:
            self._samples.add(_line({"step": step, **record}))
        self._write_or_wait()

    def write_file(self, path: Path, content: bytes) -> None:
        """Write a whole file.

        Raises:
            UserError: too much waits for room on the disk.
        """
        self._files[path] = content
        self._write_or_wait()

    def flush(self) -> None:
        """Have all that was logged on the disk when this returns: a checkpoint is about to count on it.

        Raises:
            UserError: some of it cannot be written.
        """
        failure = self._write()
        if failure is not None:
            raise failure
        for lines in (self._metrics, self._samples):
            with plain_errors(lines.path):
                lines.to_disk()
        if self._events is not None:
            try:
                self._events.to_disk()
            except OSError as error:
                self._without_tensorboard(error)

    def _write_or_wait(self) -> None:
        failure = self._write()
        waiting = self._metrics.waiting + self._samples.waiting + sum(map(len, self._files.values()))
        if failure is not None and waiting > MOST_WAITING:
            raise UserError(
                f"{failure}; {waiting >> 20} MiB wait in memory to be written, which is the limit: free some "
                "space, and the same command resumes the run"
            ) from failure

    def _write(self) -> UserError | None:
        """Try to write all that waits; the first error, which is told when it begins and when it is over."""
        failures: list[UserError] = []
        for lines in (self._metrics, self._samples):
            if lines.waiting:
                try:
                    with plain_errors(lines.path):
                        lines.write()
                except UserError as error:
                    failures.append(error)
        for path, content in list(self._files.items()):
            try:
                write_whole(path, content)
                del self._files[path]
            except UserError as error:
                failures.append(error)
        failure = failures[0] if failures else None
        if failure is not None and not self._failing:
            self._warn(f"warning: {failure}; the run continues, and what is not written waits in memory for room")
        if failure is None and self._failing:
            self._warn(f"what waited for room is written: {one_line(self._metrics.path.parent)} has all of it")
        self._failing = failure is not None
        return failure

    def _without_tensorboard(self, error: OSError) -> None:
        where, reason = one_line(self._tensorboard_path), error.strerror or error
        self._warn(f"warning: {where}: cannot be written: {reason}; the run continues without it")
        if self._events is not None:
            with suppress(OSError):
                self._events.close()
            self._events = None

    def _to_wandb(self, act: Callable[[WandbRun], None]) -> None:
        assert self._wandb is not None
        try:
            act(self._wandb)
        except Exception as error:  # whatever another program's trouble is: the run is not to end of it
            self._wandb = None
            self._warn(f"warning: wandb: {type(error).__name__}: {one_line(error)}; the run continues without it")


def read_metrics(path: Path, warn: Callable[[str], None] = say) -> list[dict[str, float]]:
    """The lines of a metrics.jsonl, by step; of a step that was done again after a resume, the last line.

    An unfinished last line is left out: the run may be writing it. So are damaged ones, with one warning.

    Raises:
        UserError: no such file, or it has lines, of which none is a metrics line.
    """
    name = one_line(path)
    by_step: dict[int, dict[str, float]] = {}
    damaged: list[Line] = []
    try:
        for line in read_lines(path, numbers_only=True):
            if line.record is None:
                damaged.append(line)
            else:
                by_step[line.step] = {key: float(value) for key, value in line.record.items()}
    except FileNotFoundError as error:
        raise UserError(f"{placed(path)}: no such file; is this a run folder?") from error
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror or error}") from error
    if damaged and not by_step:
        raise UserError(f"{name}, line {damaged[0].number}: not a line of metrics: {damaged[0].data[:60]!r}")
    if damaged:
        where = named("line", [line.number for line in damaged])
        warn(f"warning: {name}, {where}: damaged, not the metrics of a step; left out")
    return [by_step[step] for step in sorted(by_step)]


def _line(record: Mapping[str, Any]) -> bytes:
    return json_line(_strict(record), strict=True)


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
