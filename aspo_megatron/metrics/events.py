"""The metrics of a run as TensorBoard reads them. Written at once: its own writer's thread would show its errors."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from aspo_megatron.errors import UserError
from aspo_megatron.files import plain_errors

_VERSION = "brain.Event:2"


class EventFile:
    """A file of events in a folder where there may be others, of which TensorBoard makes one."""

    def __init__(self, folder: Path, after_step: int | None) -> None:
        """Begin the file.

        Args:
            folder: made if need be.
            after_step: TensorBoard is told to forget later steps of the other files; None: nothing.

        Raises:
            UserError: it cannot be written, or tensorboard is not installed.
        """
        try:
            from tensorboard.compat.proto.event_pb2 import (  # type: ignore[import-untyped]
                Event,
                SessionLog,
            )
            from tensorboard.summary.writer.record_writer import (  # type: ignore[import-untyped]
                RecordWriter,
            )
            from torch.utils.tensorboard.summary import scalar
        except ImportError as error:
            raise UserError(
                "log.tensorboard is true, but the package `tensorboard` is not installed: "
                "install it, or set log.tensorboard=false"
            ) from error
        self._event, self._record_writer = Event, RecordWriter
        self._scalar: Callable[[str, float], Any] = scalar
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.0"
        with plain_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = (folder / name).open("ab", buffering=0)
            first: list[dict[str, Any]] = [{"file_version": _VERSION}]
            if after_step is not None:
                step: dict[str, Any] = {"step": after_step + 1}
                first += [step | first[0], step | {"session_log": SessionLog(status=SessionLog.START)}]
            self._write(first)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """The metrics of a step.

        Raises:
            OSError: they cannot be written, and are left out.
        """
        self._write([{"step": step, "summary": self._scalar(name, value)} for name, value in values.items()])

    def to_disk(self) -> None:
        """Have the kernel write to the disk what it was given.

        Raises:
            OSError: it cannot.
        """
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, events: Iterable[Mapping[str, Any]]) -> None:
        """Add events, all or none: TensorBoard reads nothing that follows a part of one."""
        content = io.BytesIO()
        records = self._record_writer(content)
        for fields in events:
            records.write(self._event(wall_time=time.time(), **fields).SerializeToString())
        before, data = os.fstat(self._file.fileno()).st_size, content.getvalue()
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError:
            self._file.truncate(before)
            raise
